"""Presets: published encoder-decoder setups by name, from ``mappings/_presets.toml``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from converter.architectures.decoding import Decoder, parse_toml
from converter.architectures.schema import Entry
from converter.errors import UsageError
from converter.file_names import tables_directory

_FILE = "_presets.toml"


class _PresetEntry(Entry, frozen=True):
    paper: str
    encoder: str
    decoder: str
    random: tuple[Literal["encoder", "decoder"], ...] = ()
    share: bool = False
    set: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preset:
    """A published setup."""

    name: str
    paper: str
    encoder: str
    """The ``model_type`` that the paper used."""
    decoder: str
    random: tuple[str, ...]
    """The submodels whose weights are all newly initialized."""
    share: bool
    settings: tuple[str, ...]
    """Configuration fields, ``encoder.KEY=VALUE`` or ``decoder.KEY=VALUE``."""


def load_presets() -> dict[str, Preset]:
    """Return all presets by name; raise TableError if the file breaks a rule."""
    decoder = Decoder(f"mappings/{_FILE}")
    presets = {}
    for name, data in parse_toml((tables_directory() / _FILE).read_bytes(), _FILE).items():
        entry = decoder.struct(_PresetEntry, data, name)
        presets[name] = Preset(
            name, entry.paper, entry.encoder, entry.decoder, entry.random, entry.share, entry.set
        )
    decoder.raise_if_problems()
    return presets


def get_preset(name: str) -> Preset:
    """Return the preset called `name`; raise UsageError if it does not exist."""
    presets = load_presets()
    if name not in presets:
        raise UsageError(f"preset: {name!r} is not a preset", remedy="Known: " + ", ".join(presets))
    return presets[name]

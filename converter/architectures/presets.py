"""Presets: published encoder-decoder setups by name, from ``mappings/_presets.toml``."""

from __future__ import annotations

from typing import Literal

from converter.architectures.decoding import Decoder, parse_toml
from converter.architectures.schema import Entry
from converter.errors import UsageError
from converter.file_names import tables_directory

_FILE = "_presets.toml"


class Preset(Entry, frozen=True):
    """A published setup."""

    name: str
    paper: str
    encoder: str
    """The ``model_type`` that the paper used."""
    decoder: str
    random: tuple[Literal["encoder", "decoder"], ...] = ()
    """The submodels whose weights are all newly initialized."""
    share: bool = False
    set: tuple[str, ...] = ()
    """Configuration fields, ``encoder.KEY=VALUE`` or ``decoder.KEY=VALUE``."""


def load_presets() -> dict[str, Preset]:
    """Return all presets by name; raise TableError if the file breaks a rule."""
    decoder = Decoder(f"mappings/{_FILE}")
    tables = parse_toml((tables_directory() / _FILE).read_bytes(), _FILE)
    presets = {
        name: decoder.struct(Preset, {**decoder.table(data, name), "name": name}, name)
        for name, data in tables.items()
    }
    decoder.raise_if_problems()
    return presets


def get_preset(name: str) -> Preset:
    """Return the preset called `name`; raise UsageError if it does not exist."""
    presets = load_presets()
    if name not in presets:
        raise UsageError(f"preset: {name!r} is not a preset", remedy="Known: " + ", ".join(presets))
    return presets[name]

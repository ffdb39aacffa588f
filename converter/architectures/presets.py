"""The configurations of the literature by name, from ``mappings/_recipes.toml``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from converter.architectures.toml_section import TomlSection, parse_toml
from converter.errors import Problem, TableError, UsageError

_FILE = "_recipes.toml"


@dataclass(frozen=True)
class Preset:
    """One configuration of the literature."""

    name: str
    paper: str
    encoder: str
    """The family that the paper used."""
    decoder: str
    random: tuple[str, ...]
    """The halves whose weights are all drawn anew."""
    share: bool
    settings: tuple[str, ...]
    """Configuration fields, ``encoder.KEY=VALUE`` or ``decoder.KEY=VALUE``."""


def load_presets() -> dict[str, Preset]:
    """All recipes by name.

    Raises:
        TableError: if the file breaks a rule.

    """
    text = files("converter.mappings").joinpath(_FILE).read_bytes()
    problems: list[Problem] = []
    root = TomlSection(parse_toml(text, _FILE), "", problems, _FILE)
    found = {}
    for name in root:
        entry = root.section(name)
        found[name] = Preset(
            name=name,
            paper=entry.require("paper", str, ""),
            encoder=entry.require("encoder", str, ""),
            decoder=entry.require("decoder", str, ""),
            random=entry.names("random", ("encoder", "decoder")),
            share=entry.take("share", bool, False),
            settings=entry.names("set"),
        )
        entry.finish("paper, encoder, decoder, random, share, set")
    if problems:
        raise TableError(f"mappings/{_FILE}: breaks {len(problems)} rule(s)", problems)
    return found


def get_preset(name: str) -> Preset:
    """The recipe called `name`.

    Raises:
        UsageError: if there is none.

    """
    known = load_presets()
    if name not in known:
        raise UsageError(f"preset: {name!r} is not a preset", remedy="Known: " + ", ".join(known))
    return known[name]

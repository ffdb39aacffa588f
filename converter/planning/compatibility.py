"""Pairs that cannot be, refused by their configurations alone, before any weights are opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from converter.architectures.model_config import ModelConfig
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import FRAMEWORKS, Family
from converter.errors import UnsupportedError
from converter.models.framework_support import pair_unsupported_reasons, select_frameworks
from converter.planning.compose_options import HALVES, ComposeOptions

_WHY = {
    "encoder": "by its configuration, the frameworks find no class that only encodes",
    "decoder": "none of its classes is a decoder alone, with cross-attention",
}


def check_compatibility(
    wishes: ComposeOptions, library: ArchitectureRegistry, asked: Sequence[str] | None
) -> None:
    """Refuse two halves that cannot be one model, or not in a framework that was asked for.

    Only configurations are read. What states no family is left for later: its tensors tell it.

    Args:
        wishes: how the halves are wanted.
        library: the mapping tables.
        asked: the frameworks that were asked for, ``None`` for every one that can be.

    Raises:
        UnsupportedError: if they cannot.
    """
    found = {half: wishes.configuration(half, library) for half in HALVES}
    known = {half: config for half, config in found.items() if config is not None}
    _check_roles(known, library, asked)
    if len(known) == len(HALVES):
        supported_frameworks(known, library, asked)


def supported_frameworks(
    halves: Mapping[str, ModelConfig], library: ArchitectureRegistry, asked: Sequence[str] | None
) -> tuple[tuple[str, ...], list[str]]:
    """The frameworks in which two halves can be one model, and what to tell of the others.

    Args:
        halves: ``encoder`` and ``decoder`` → the configuration.
        library: the mapping tables.
        asked: the frameworks that were asked for, ``None`` for every one that can be.

    Raises:
        UnsupportedError: if a half cannot play its role, or a framework cannot be had.
    """
    _check_roles(halves, library, asked)
    composite = library.composite(halves["encoder"].family.roles["encoder"].composite)

    def instead(framework: str) -> str | None:
        wanted = [
            f"{framework} has {', '.join(names)} as {half}"
            for half, config in halves.items()
            if framework not in _possible(config.family, half, library)
            and (names := _able(half, library, [framework], config.family.roles[half].composite))
        ]
        return "; ".join(wanted) or None

    return select_frameworks(asked, pair_unsupported_reasons(composite, halves), instead)


def _check_roles(
    halves: Mapping[str, ModelConfig], library: ArchitectureRegistry, asked: Sequence[str] | None
) -> None:
    wrong = {
        half: config.family for half, config in halves.items() if half not in config.family.roles
    }
    if not wrong:
        return
    faults = [
        f"{family.name} cannot be the {half} of an encoder-decoder model: {_WHY[half]}"
        for half, family in wrong.items()
    ]
    raise UnsupportedError("; ".join(faults), remedy=" ".join(_remedies(wrong, library, asked)))


def _remedies(
    wrong: Mapping[str, Family], library: ArchitectureRegistry, asked: Sequence[str] | None
) -> Iterator[str]:
    other = dict(zip(HALVES, reversed(HALVES), strict=True))
    if len(wrong) == len(HALVES) and all(
        other[half] in family.roles for half, family in wrong.items()
    ):
        yield "They go together the other way round."
        return
    where = f" in {' and '.join(asked)}" if asked else ""
    for half in wrong:
        yield f"What can be the {half}{where}: {', '.join(_able(half, library, asked or ()))}."
    yield "See `converter families`."


def _able(
    half: str, library: ArchitectureRegistry, wanted: Sequence[str], composite: str | None = None
) -> list[str]:
    """The families that can play a role, of one composite or of any, in all `wanted` frameworks."""
    families = [library.family(name) for name in library.names if not library.is_composite(name)]
    return [
        family.name
        for family in families
        if half in family.roles
        and composite in (None, family.roles[half].composite)
        and {*wanted} <= _possible(family, half, library)
    ]


def _possible(family: Family, half: str, library: ArchitectureRegistry) -> set[str]:
    """The frameworks whose classes can have a family in a role, whatever its configuration."""
    role = family.roles[half]
    found = {*role.frameworks} & {*family.models[role.model].classes} & {*FRAMEWORKS}
    return found & {*library.composite(role.composite).classes} if half == "encoder" else found

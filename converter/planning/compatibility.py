"""Pairs that cannot be, refused by their configurations alone, before any weights are opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from converter.architectures.model_config import ModelConfig
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import FRAMEWORKS, Architecture
from converter.errors import UnsupportedError
from converter.models.framework_support import pair_unsupported_reasons, select_frameworks
from converter.options import SUBMODELS
from converter.planning.compose_options import ComposeSettings

_WHY = {
    "encoder": "by its configuration, the frameworks find no class that only encodes",
    "decoder": "none of its classes is a decoder alone, with cross-attention",
}


def check_compatibility(
    wishes: ComposeSettings, registry: ArchitectureRegistry, asked: Sequence[str] | None
) -> None:
    """Refuse two halves that cannot be one model, or not in a framework that was asked for.

    Only configurations are read. What states no family is left for later: its tensors tell it.

    Args:
        wishes: how the halves are wanted.
        registry: the mapping tables.
        asked: the frameworks that were asked for, ``None`` for every one that can be.

    Raises:
        UnsupportedError: if they cannot.

    """
    found = {submodel: wishes.configuration(submodel, registry) for submodel in SUBMODELS}
    known = {submodel: config for submodel, config in found.items() if config is not None}
    _check_roles(known, registry, asked)
    if len(known) == len(SUBMODELS):
        supported_frameworks(known, registry, asked)


def supported_frameworks(
    submodels: Mapping[str, ModelConfig],
    registry: ArchitectureRegistry,
    asked: Sequence[str] | None,
) -> tuple[tuple[str, ...], list[str]]:
    """The frameworks in which two halves can be one model, and what to tell of the others.

    Args:
        submodels: ``encoder`` and ``decoder`` → the configuration.
        registry: the mapping tables.
        asked: the frameworks that were asked for, ``None`` for every one that can be.

    Raises:
        UnsupportedError: if a half cannot play its role, or a framework cannot be had.

    """
    _check_roles(submodels, registry, asked)
    composite = registry.composite(submodels["encoder"].architecture.roles["encoder"].composite)

    def instead(framework: str) -> str | None:
        wanted = [
            f"{framework} has {', '.join(names)} as {submodel}"
            for submodel, config in submodels.items()
            if framework not in _possible(config.architecture, submodel, registry)
            and (
                names := _able(
                    submodel, registry, [framework], config.architecture.roles[submodel].composite
                )
            )
        ]
        return "; ".join(wanted) or None

    return select_frameworks(asked, pair_unsupported_reasons(composite, submodels), instead)


def _check_roles(
    submodels: Mapping[str, ModelConfig],
    registry: ArchitectureRegistry,
    asked: Sequence[str] | None,
) -> None:
    wrong = {
        submodel: config.architecture
        for submodel, config in submodels.items()
        if submodel not in config.architecture.roles
    }
    if not wrong:
        return
    faults = [
        f"{architecture.name} cannot be the {submodel} of an encoder-decoder model: "
        f"{_WHY[submodel]}"
        for submodel, architecture in wrong.items()
    ]
    raise UnsupportedError("; ".join(faults), remedy=" ".join(_remedies(wrong, registry, asked)))


def _remedies(
    wrong: Mapping[str, Architecture], registry: ArchitectureRegistry, asked: Sequence[str] | None
) -> Iterator[str]:
    other = dict(zip(SUBMODELS, reversed(SUBMODELS), strict=True))
    if len(wrong) == len(SUBMODELS) and all(
        other[submodel] in architecture.roles for submodel, architecture in wrong.items()
    ):
        yield "They go together the other way round."
        return
    where = f" in {' and '.join(asked)}" if asked else ""
    for submodel in wrong:
        able = ", ".join(_able(submodel, registry, asked or ()))
        yield f"What can be the {submodel}{where}: {able}."
    yield "See `converter families`."


def _able(
    submodel: str,
    registry: ArchitectureRegistry,
    wanted: Sequence[str],
    composite: str | None = None,
) -> list[str]:
    """The families that can play a role, of one composite or of any, in all `wanted` frameworks."""
    families = [
        registry.architecture(name) for name in registry.names if not registry.is_composite(name)
    ]
    return [
        architecture.name
        for architecture in families
        if submodel in architecture.roles
        and composite in (None, architecture.roles[submodel].composite)
        and {*wanted} <= _possible(architecture, submodel, registry)
    ]


def _possible(
    architecture: Architecture, submodel: str, registry: ArchitectureRegistry
) -> set[str]:
    """The frameworks whose classes can have a family in a role, whatever its configuration."""
    role = architecture.roles[submodel]
    found = {*role.frameworks} & {*architecture.models[role.model].classes} & {*FRAMEWORKS}
    return found & {*registry.composite(role.composite).classes} if submodel == "encoder" else found

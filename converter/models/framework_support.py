"""Which frameworks an output can be written for, and why not the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from converter.architectures.expressions import ExpressionError, Value
from converter.architectures.model_config import ModelConfig
from converter.architectures.schema import FRAMEWORKS, Composite, ModelClass
from converter.errors import ConfigError, Problem, UnsupportedError


def unsupported_reasons(
    config: ModelConfig, model: ModelClass, role: str | None = None
) -> dict[str, str]:
    """Framework → why it cannot hold a model of this class and configuration, in a role or not."""
    found = {
        framework: f"there is no {framework} class for {model.name}"
        for framework in FRAMEWORKS
        if framework not in model.classes
    }
    for limit in config.architecture.unsupported:
        concerns = limit.head is None or limit.head in model.heads
        if concerns and limit.role in (None, role) and config.is_true(limit.when):
            for framework in limit.frameworks:
                found.setdefault(framework, f"{limit.when}: {limit.reason}")
    return found


def role_unsupported_reasons(config: ModelConfig, role: str) -> dict[str, str]:
    """Framework → why its composite cannot take a model of this family in `role`.

    Raises:
        UnsupportedError: if the family does not have the role at all.

    """
    architecture = config.architecture
    if role not in architecture.roles:
        raise UnsupportedError(
            f"{architecture.name} cannot be the {role} of an encoder-decoder model",
            remedy=f"`converter families` lists the families that can be a {role}."
            + (" A decoder needs cross-attention." if role == "decoder" else ""),
        )
    entry = architecture.roles[role]
    found = unsupported_reasons(config, architecture.models[entry.model], role)
    for framework in FRAMEWORKS:
        if framework not in entry.frameworks:
            found.setdefault(framework, entry.reason or "not supported")
    return found


def pair_unsupported_reasons(
    composite: Composite, submodels: Mapping[str, ModelConfig]
) -> dict[str, str]:
    """Framework → why its class cannot join these two halves.

    Args:
        composite: the composite's table.
        submodels: half → its configuration.

    """

    def attribute(name: str) -> Value:
        submodel, _, wanted = name.partition(".")
        return submodels[submodel].attribute(wanted)

    found = {}
    for submodel, config in submodels.items():
        for framework, reason in role_unsupported_reasons(config, submodel).items():
            found[framework] = f"as {submodel}, {reason}"
    for framework in FRAMEWORKS:
        if framework not in composite.classes:
            found.setdefault(framework, f"there is no {framework} class for {composite.name}")
    for limit in composite.unsupported:
        try:
            concerns = limit.when.evaluate(attribute)
        except ExpressionError as error:
            raise ConfigError(f"{composite.name}: {error}") from error
        if concerns:
            for framework in limit.frameworks:
                found.setdefault(framework, f"{limit.when}: {limit.reason}")
    return found


def select_frameworks(
    asked: Sequence[str] | None,
    unsupported_reasons: Mapping[str, str],
    instead: Callable[[str], str | None] = lambda framework: None,
) -> tuple[tuple[str, ...], list[str]]:
    """The frameworks to write, and what to tell the user of the others.

    Args:
        asked: the frameworks that were asked for, ``None`` for every one that can be.
        obstacles: framework → why it cannot be.
        instead: gives of a framework that cannot be what would go with it.

    Raises:
        UnsupportedError: if one was asked for that cannot be had, or none is left.

    """
    if asked is not None:
        problems = [
            Problem(
                f"cannot be written: {unsupported_reasons[framework]}",
                tensor=framework,
                remedy=instead(framework),
            )
            for framework in dict.fromkeys(asked)
            if framework in unsupported_reasons
        ]
        if problems:
            possible = [name for name in FRAMEWORKS if name not in unsupported_reasons]
            raise UnsupportedError(
                "a framework that was asked for has no class for this model",
                problems,
                remedy=f"Possible here: --to {','.join(possible)}." if possible else None,
            )
        return tuple(name for name in FRAMEWORKS if name in asked), []
    chosen = tuple(name for name in FRAMEWORKS if name not in unsupported_reasons)
    if not chosen:
        raise UnsupportedError(
            "no framework has a class for this model",
            [Problem(reason, tensor=name) for name, reason in unsupported_reasons.items()],
        )
    return chosen, [
        f"{name} is left out: {unsupported_reasons[name]}"
        for name in FRAMEWORKS
        if name in unsupported_reasons
    ]

"""Framework support: which frameworks have a class for a model, and why the others do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from converter.architectures.expressions import ExpressionError, Value
from converter.architectures.model_config import ModelConfig
from converter.architectures.schema import CROSS_ATTENTION, FRAMEWORKS, Composite, ModelClass
from converter.errors import ConfigError, Problem, UnsupportedError


def unsupported_reasons(
    config: ModelConfig, model: ModelClass, role: str | None = None
) -> dict[str, str]:
    """Return each framework that does not support a model of this class and config → the reason."""
    reasons = {
        framework: f"there is no {framework} class for {model.name}"
        for framework in FRAMEWORKS
        if framework not in model.classes
    }
    for limit in config.architecture.unsupported.values():
        applies = limit.head is None or limit.head in model.heads
        if applies and limit.role in (None, role) and config.is_true(limit.when):
            for framework in limit.frameworks:
                reasons.setdefault(framework, f"{limit.when}: {limit.reason}")
    return reasons


def role_unsupported_reasons(config: ModelConfig, role: str) -> dict[str, str]:
    """Return each framework whose composite does not support the model in `role` → the reason.

    Raise `UnsupportedError` if the architecture does not have the role in any framework.
    """
    architecture = config.architecture
    if role not in architecture.roles:
        raise UnsupportedError(
            f"{architecture.name} cannot be the {role} of an encoder-decoder model",
            remedy=f"`converter families` lists the architectures that can be a {role}."
            + (" A decoder needs cross-attention." if role == "decoder" else ""),
        )
    entry = architecture.roles[role]
    reasons = unsupported_reasons(config, architecture.models[entry.model], role)
    for framework in FRAMEWORKS:
        if framework not in entry.frameworks:
            reasons.setdefault(framework, entry.reason or "not supported")
    return reasons


def submodel_class(config: ModelConfig, role: str) -> tuple[ModelClass, tuple[str, ...]]:
    """Return the class of a model in `role`, and its parts, with a decoder's cross-attention."""
    model = config.architecture.models[config.architecture.roles[role].model]
    cross_attention = [CROSS_ATTENTION] if role == "decoder" else []
    return model, tuple(dict.fromkeys((*model.parts, *cross_attention)))


def composite_class(
    composite: Composite, submodel: str, config: ModelConfig
) -> tuple[ModelClass, tuple[str, ...]]:
    """Return the class of a submodel of `composite`, and its parts.

    Raise `UnsupportedError` if no framework supports a submodel of its architecture.
    """
    if submodel not in composite.models:
        role_unsupported_reasons(config, composite.roles[submodel])
        return submodel_class(config, composite.roles[submodel])
    supported, architecture = composite.models[submodel], config.architecture
    if architecture.name not in supported:
        raise UnsupportedError(
            f"{config.file}: {architecture.name!r} is not supported in {composite.name}",
            remedy=f"Supported: {', '.join(supported)}.",
        )
    model = architecture.models[supported[architecture.name].model]
    return model, model.parts


def attribute_lookup(submodels: Mapping[str, ModelConfig]) -> Callable[[str], Value]:
    """Return the lookup of ``encoder.width`` and the like."""

    def lookup(name: str) -> Value:
        submodel, _, attribute = name.partition(".")
        return submodels[submodel].attribute(attribute)

    return lookup


def derived_fields(composite: Composite, submodels: Mapping[str, ModelConfig]) -> dict[str, Value]:
    """Return the configuration fields of a composite that follow from its submodels.

    The name of a submodel's field starts with ``encoder.`` or ``decoder.``. Raise ConfigError if
    one cannot be computed.
    """
    lookup = attribute_lookup(submodels)
    try:
        return {field: value.evaluate(lookup) for field, value in composite.derived.items()}
    except ExpressionError as error:
        raise ConfigError(f"{composite.name}: {error}") from error


def pair_unsupported_reasons(
    composite: Composite, submodels: Mapping[str, ModelConfig]
) -> dict[str, str]:
    """Return each framework whose class of `composite` does not support a pair → the reason."""
    lookup = attribute_lookup(submodels)
    lacking = {
        name: f"there is no {name} class for {composite.name}"
        for name in FRAMEWORKS
        if name not in composite.classes
    }
    reasons = {}
    for submodel, config in submodels.items():
        if composite.generates:
            of_role = role_unsupported_reasons(config, composite.roles[submodel])
        else:  # the limits of a role are those of encoder-decoder classes
            of_role = unsupported_reasons(config, composite_class(composite, submodel, config)[0])
            own = composite.models.get(submodel, {}).get(config.architecture.name)
            if own:
                others = {*FRAMEWORKS} - {*own.frameworks}
                of_role |= dict.fromkeys(others, own.reason or "not supported")
        for framework, reason in of_role.items():
            reasons[framework] = f"as {submodel}, {reason}"
    # what a closed composite lacks, its submodels lack for that reason
    reasons = {**reasons, **lacking} if composite.closed else {**lacking, **reasons}
    for limit in composite.unsupported.values():
        try:
            applies = limit.when.evaluate(lookup)
        except ExpressionError as error:
            raise ConfigError(f"{composite.name}: {error}") from error
        if applies:
            for framework in limit.frameworks:
                reasons.setdefault(framework, f"{limit.when}: {limit.reason}")
    return reasons


def select_frameworks(
    requested: Sequence[str] | None,
    unsupported: Mapping[str, str],
    alternative: Callable[[str], str | None] = lambda framework: None,
) -> tuple[tuple[str, ...], list[str]]:
    """Return the frameworks to write for, and warnings about the others.

    By default those are all that are not among the `unsupported`, which map to the reasons.
    `alternative` returns what a framework would support instead. Raise `UnsupportedError` if a
    requested framework is unsupported, or all are.
    """
    supported = tuple(name for name in FRAMEWORKS if name not in unsupported)
    if requested is not None:
        problems = [
            Problem(
                f"cannot be written: {unsupported[framework]}",
                tensor=framework,
                remedy=alternative(framework),
            )
            for framework in dict.fromkeys(requested)
            if framework in unsupported
        ]
        if problems:
            raise UnsupportedError(
                "a requested framework has no class for this model",
                problems,
                remedy=f"Supported: --to {','.join(supported)}." if supported else None,
            )
        return tuple(name for name in FRAMEWORKS if name in requested), []
    if not supported:
        raise UnsupportedError(
            "no framework has a class for this model",
            [Problem(reason, tensor=name) for name, reason in unsupported.items()],
        )
    return supported, [
        f"{name} is skipped: {unsupported[name]}" for name in FRAMEWORKS if name in unsupported
    ]

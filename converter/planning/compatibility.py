"""Compatibility of an encoder and a decoder: pairs that are refused, and warnings about others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from converter.architectures.model_config import ModelConfig
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import FRAMEWORKS, Architecture, Composite
from converter.errors import UnsupportedError
from converter.models.framework_support import pair_unsupported_reasons, select_frameworks
from converter.models.source_model import SourceModel
from converter.options import SUBMODELS
from converter.planning.tokenizer_files import (
    TOKENIZER_SETTINGS,
    TokenizerFiles,
    non_negative_int,
    tokenizer_files,
)

_REASONS = {
    "encoder": "by its configuration, the frameworks find no class that only encodes",
    "decoder": "none of its classes is a decoder alone, with cross-attention",
}

_LENGTHS = ("max_length", "max_new_tokens")
"""The generation settings that limit the length of the output in tokens."""


def check_compatibility(
    configs: Mapping[str, ModelConfig],
    registry: ArchitectureRegistry,
    requested: Sequence[str] | None,
    force: bool = False,
    composite: Composite | None = None,
) -> None:
    """Raise UnsupportedError for a pair that cannot be one model in a requested framework.

    Only configurations are needed. A missing one, whose architecture can only be detected by its
    tensors, is checked once its weights are open.

    Args:
        configs: submodel → its configuration.
        registry: the mapping tables.
        requested: the requested frameworks, ``None`` for every supported one.
        force: if true, a pair may be one that transformers cannot call.
        composite: the one that is asked for, if not one with a decoder.

    """
    if composite is None:
        check_roles(_names(configs), registry, requested)
    if len(configs) == len(SUBMODELS):
        supported_frameworks(configs, registry, requested, force, composite)


def supported_frameworks(
    configs: Mapping[str, ModelConfig],
    registry: ArchitectureRegistry,
    requested: Sequence[str] | None,
    force: bool = False,
    composite: Composite | None = None,
) -> tuple[tuple[str, ...], list[str]]:
    """Return the frameworks to write a pair for, and warnings about the others.

    Args:
        configs: submodel → its configuration.
        registry: the mapping tables.
        requested: the requested frameworks, ``None`` for every supported one.
        force: if true, a pair that transformers cannot call gives a warning instead of an error.
        composite: the one that is asked for, if not one with a decoder.

    Raises:
        UnsupportedError: if a submodel cannot play its role, or a framework is unsupported.

    """
    if composite:
        uncallable = _not_accepted(composite, configs, force)
        unsupported = pair_unsupported_reasons(composite, configs)
        frameworks, warnings = select_frameworks(requested, unsupported)
        return frameworks, [*warnings, *uncallable]
    check_roles(_names(configs), registry, requested)
    composite = registry.composite(configs["encoder"].architecture.roles["encoder"].composite)

    def alternative(framework: str) -> str | None:
        hints = [
            f"{framework} has {', '.join(names)} as {submodel}"
            for submodel, config in configs.items()
            if framework not in _role_frameworks(config.architecture, submodel, registry)
            and (
                names := _architectures_for(
                    submodel, registry, [framework], config.architecture.roles[submodel].composite
                )
            )
        ]
        return "; ".join(hints) or None

    _check_closed(composite, configs, registry)
    unsupported = pair_unsupported_reasons(composite, configs)
    frameworks, warnings = select_frameworks(requested, unsupported, alternative)
    uncallable = [
        f"{config.architecture.name} as {submodel}: {reason}"
        for submodel, config in configs.items()
        if (reason := config.architecture.roles[submodel].uncallable.get(composite.name))
    ]
    if uncallable and not force:
        raise UnsupportedError(
            "this pair loads but does not run: " + "; ".join(uncallable),
            remedy="Choose another submodel, or write it all the same: --force.",
        )
    return frameworks, [*warnings, *uncallable]


def _not_accepted(
    composite: Composite, configs: Mapping[str, ModelConfig], force: bool
) -> list[str]:
    """Return a warning for each submodel that the classes of `composite` cannot call.

    Raise UnsupportedError for the first, unless `force`, or if it does not have the role at all.
    """
    warnings = []
    for submodel, config in configs.items():
        name, accepted = config.architecture.name, composite.accepts.get(submodel, ())
        if not accepted or name in accepted:
            continue
        what = f"{name} cannot be the {submodel} of {composite.name}"
        remedy = f"What can be the {submodel}: {', '.join(accepted)}."
        has_role = composite.roles[submodel] in config.architecture.roles
        if not has_role or not force:
            others = [other for other in composite.submodels if other != submodel]
            if any(name in composite.accepts.get(other, ()) for other in others):
                remedy = f"It can be the {others[0]}: are the two in reverse order? {remedy}"
            raise UnsupportedError(
                f"{what}: its class does not return what it needs", remedy=remedy
            )
        warnings.append(f"{what}: it loads but does not run")
    return warnings


def _check_closed(
    composite: Composite, configs: Mapping[str, ModelConfig], registry: ArchitectureRegistry
) -> None:
    """Raise UnsupportedError if a submodel fits only another one than this composite."""
    encoder, decoder = (configs[submodel].architecture for submodel in SUBMODELS)
    if not registry.takes(composite, decoder.roles["decoder"]):
        raise UnsupportedError(
            f"{encoder.name} and {decoder.name} do not fit together: one of them is a submodel of "
            f"{composite.name if composite.closed else decoder.roles['decoder'].composite} only",
            remedy="See `converter families`.",
        )


def check_roles(
    model_types: Mapping[str, str], registry: ArchitectureRegistry, requested: Sequence[str] | None
) -> None:
    """Raise UnsupportedError for a model type that cannot play its role, with or without a table.

    Args:
        model_types: submodel → the model type of its configuration.
        registry: the mapping tables.
        requested: the requested frameworks, ``None`` for every supported one.

    """
    wrong = {
        submodel: (name, registry.model_types.role_obstacle(name, submodel) or _REASONS[submodel])
        for submodel, name in model_types.items()
        if not _can_be(name, submodel, registry)
    }
    if wrong:
        reasons = [
            f"{name} cannot be the {submodel} of an encoder-decoder model: {reason}"
            for submodel, (name, reason) in wrong.items()
        ]
        names = {submodel: name for submodel, (name, _) in wrong.items()}
        raise UnsupportedError(
            "; ".join(reasons), remedy=" ".join(_remedies(names, model_types, registry, requested))
        )


def _names(configs: Mapping[str, ModelConfig]) -> dict[str, str]:
    return {submodel: config.architecture.name for submodel, config in configs.items()}


def _can_be(name: str, submodel: str, registry: ArchitectureRegistry) -> bool:
    """Return whether a model type can play a role; true too if there is only no table."""
    if name in registry:
        return submodel in registry.architecture(name).roles
    return not registry.model_types.role_obstacle(name, submodel)


def _remedies(
    wrong: Mapping[str, str],
    model_types: Mapping[str, str],
    registry: ArchitectureRegistry,
    requested: Sequence[str] | None,
) -> Iterator[str]:
    other = dict(zip(SUBMODELS, reversed(SUBMODELS), strict=True))
    if len(wrong) == len(SUBMODELS) and all(
        name in registry and _can_be(name, other[submodel], registry)
        for submodel, name in wrong.items()
    ):
        yield "They fit in the reverse order."
        return
    for composite in map(registry.composite, filter(registry.is_composite, registry.names)):
        both = zip(composite.submodels, model_types.values(), strict=False)
        if all(name in composite.accepts.get(submodel, ()) for submodel, name in both):
            yield f"Both can become a {composite.name}: --model-type {composite.name}."
    where = f" in {' and '.join(requested)}" if requested else ""
    if "decoder" in wrong:
        for name in (each for each in registry.names if not registry.is_composite(each)):
            others = [other for other in dict.fromkeys(model_types.values()) if other != name]
            differences = [text for each in others if (text := _difference(each, name, registry))]
            for target in registry.architecture(name).becomes:
                yield f"Two {name} become one {target}: give one as encoder and one as decoder."
                yield from differences
    for submodel in wrong:
        names = ", ".join(_architectures_for(submodel, registry, requested or ()))
        yield f"What can be the {submodel}{where}: {names}."
    yield "See `converter families`."


def _difference(name: str, other: str, registry: ArchitectureRegistry) -> str | None:
    """Return in which modules an architecture differs from another one that it resembles."""
    if name not in registry or registry.is_composite(name):
        return None
    first, second = (
        {row.path.text: row.layer_type.name for row in registry.architecture(each).modules}
        for each in (name, other)
    )
    lacking = [path for path in second if first.get(path) != second[path]]
    more = [path for path in first if path not in second]
    if len(lacking) + len(more) > len(second) // 2:
        return None
    parts = [
        f"{verb} {', '.join(path.rpartition('}.')[2] for path in paths)}"
        for verb, paths in (("has no", lacking), ("has", more))
        if paths
    ]
    return f"A {name} does not fit there: it {' and '.join(parts)}." if parts else None


def _architectures_for(
    submodel: str,
    registry: ArchitectureRegistry,
    frameworks: Sequence[str],
    composite: str | None = None,
) -> list[str]:
    """Return the architectures that can play a role, of one composite or any, in `frameworks`."""
    names = [name for name in registry.names if not registry.is_composite(name)]
    return [
        architecture.name
        for architecture in map(registry.architecture, names)
        if (role := architecture.roles.get(submodel))
        and composite in (None, role.composite)
        and not registry.is_closed(role)
        and {*frameworks} <= _role_frameworks(architecture, submodel, registry)
    ]


def _role_frameworks(
    architecture: Architecture, submodel: str, registry: ArchitectureRegistry
) -> set[str]:
    """Return the frameworks with classes for an architecture in a role, whatever its config."""
    role = architecture.roles[submodel]
    names = {*role.frameworks} & {*architecture.models[role.model].classes} & {*FRAMEWORKS}
    return names & {*registry.composite(role.composite).classes} if submodel == "encoder" else names


def pair_warnings(
    sources: Mapping[str, SourceModel], tokens: Mapping[str, int], settings: Mapping[str, Any]
) -> Iterator[str]:
    """Yield likely problems of a pair that works.

    `tokens` are role → id of each special token, `settings` the generation settings to be written.
    """
    yield from submodel_warnings(sources)
    yield from _length_warnings(sources, settings)
    if tokens["start"] == tokens["pad"]:
        yield (
            "decoder_start_token_id equals pad_token_id: pass decoder_attention_mask in training, "
            "or transformers masks the first token, and generate() differs from training"
        )
    tokenizers = _tokenizers(sources)
    if len(tokenizers) == len(sources):
        yield from _tokenizer_warnings(sources, tokenizers, tokens)


def _tokenizers(sources: Mapping[str, SourceModel]) -> dict[str, TokenizerFiles]:
    """Return the tokenizer of each submodel that has a vocabulary."""
    return {
        submodel: TokenizerFiles(source.checkpoint.directory)
        for submodel, source in sources.items()
        if _int_attribute(source, "vocabulary") is not None
    }


def submodel_warnings(sources: Mapping[str, SourceModel]) -> Iterator[str]:
    """Yield likely problems of each submodel by itself."""
    for submodel, source in sources.items():
        width, heads = (_int_attribute(source, name) for name in ("width", "heads"))
        if width and heads and heads > 0 and width % heads:
            yield f"{submodel}: its width {width} is not a multiple of its {heads} attention heads"
    for submodel, tokenizer in _tokenizers(sources).items():
        size, vocabulary = tokenizer.size, _int_attribute(sources[submodel], "vocabulary")
        if size is not None and vocabulary is not None and size > vocabulary:
            yield (
                f"{submodel}: its tokenizer has {size:,} tokens, the model {vocabulary:,} "
                "embeddings; the others fail when they are used: --resize-embeddings"
            )


def _int_attribute(source: SourceModel, name: str) -> int | None:
    value = source.config.attribute(name)
    return value if isinstance(value, int) else None


def _length_warnings(
    sources: Mapping[str, SourceModel], settings: Mapping[str, Any]
) -> Iterator[str]:
    def positions(submodel: str) -> int | None:
        """Return how many tokens a submodel has positions for, ``None`` if any number."""
        rows = _int_attribute(sources[submodel], "positions")
        first = _int_attribute(sources[submodel], "first_position") or 0
        return None if rows is None else rows - first

    encoder, decoder = positions("encoder"), positions("decoder")
    if encoder is not None and decoder is not None and 2 * decoder < encoder:
        yield (
            f"decoder: has {decoder:,} positions and the encoder {encoder:,}: its outputs cannot "
            "be longer than that"
        )
    for name in _LENGTHS:
        length = non_negative_int(settings.get(name))
        if decoder is not None and length is not None and length > decoder:
            yield (
                f"decoder: {name} is {length:,} and it has {decoder:,} positions, beyond which "
                f"generate() fails: --set {name}={decoder}"
            )


def _tokenizer_warnings(
    sources: Mapping[str, SourceModel],
    tokenizers: Mapping[str, TokenizerFiles],
    tokens: Mapping[str, int],
) -> Iterator[str]:
    inputs, outputs = (tokenizers[submodel].lowercases for submodel in SUBMODELS)
    if inputs is not None and outputs is not None and inputs != outputs:
        case = {True: "lower case only", False: "upper and lower case"}
        yield f"the encoder's tokenizer reads {case[inputs]}, the decoder's writes {case[outputs]}"
    for submodel, tokenizer in tokenizers.items():
        files = {*tokenizer_files(tokenizer.directory)}
        if files and files.issubset(TOKENIZER_SETTINGS):
            yield f"{submodel}: its tokenizer files have no vocabulary"
    padding = non_negative_int(sources["encoder"].config.raw.get("pad_token_id"))
    padding = tokenizers["encoder"].special("pad") if padding is None else padding
    if padding is not None and padding != tokens["pad"]:
        yield (
            f"the encoder pads with token {padding}, the decoder with {tokens['pad']}: always give "
            "attention_mask with padded inputs, it cannot be derived from pad_token_id"
        )

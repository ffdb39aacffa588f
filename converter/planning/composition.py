"""The plan of `compose`: what its options ask for, its sources, and the encoder-decoder model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from converter.architectures.loader import Preset, get_preset
from converter.architectures.model_config import ModelConfig, apply_overrides, parse_settings
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import Composite
from converter.checkpoint.opening import Checkpoint, open_config, open_files
from converter.errors import CheckpointError, UnsupportedError, UsageError
from converter.file_names import GENERATION_CONFIG, JOINT_WEIGHTS
from converter.models.framework_support import derived_fields
from converter.models.source_model import (
    SourceModel,
    as_part_of,
    detect_model_type,
    select_submodel,
)
from converter.option_declaration import options_of
from converter.options import SUBMODELS, ComposeOptions, InitRule, Reference
from converter.plan import Plan
from converter.planning.compatibility import pair_warnings, supported_frameworks
from converter.planning.configs import (
    TOKEN_FIELDS,
    GenerationSettings,
    composed_config,
    decoder_config,
    generation_config,
    is_setting,
    submodel_config,
    unknown_field_warnings,
)
from converter.planning.encoder_decoder import (
    EncoderDecoderPair,
    ignored_bias_warnings,
    split_manifest,
)
from converter.planning.generation_calls import generation_warnings
from converter.planning.layers_and_embeddings import (
    LAYER_LIST,
    LAYER_RULE,
    resize_embeddings,
    select_layers,
)
from converter.planning.manifest import dictionary
from converter.planning.planner import OutputModel, build_plan, init_cross_attention, plan_tensors
from converter.planning.special_tokens import SpecialTokens, resolve_tokens
from converter.planning.tokenizer_files import collect_auxiliary_files
from converter.storage.references import is_remote, location_key

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComposeSettings:
    """What `compose` does with each submodel, the preset taken into account."""

    references: Mapping[str, Reference]
    configs: Mapping[str, Reference | None]
    random: frozenset[str]
    """The submodels whose weights are all newly initialized."""
    share: bool
    layers: Mapping[str, str]
    """Submodel → which of its layers, if not all."""
    resized: bool
    """If true, embeddings are resized to the tokenizers."""
    changes: Mapping[str, Mapping[str, Any]]
    """Submodel, or ``""`` for the pair → configuration fields that are set."""
    ignore: Mapping[str, Sequence[str]]
    """Submodel → patterns of stored names that are ignored."""
    tokens: Mapping[str, str | int | None]
    """Role → id or text of the special token that options or fields ask for."""
    preset: Preset | None = None
    composite: Composite | None = None
    """The composite that is asked for, if not one with a decoder."""

    @classmethod
    def of(cls, options: ComposeOptions, registry: ArchitectureRegistry) -> ComposeSettings:
        """Return what options ask for; raise UsageError if they contradict each other."""
        preset = get_preset(options.preset) if options.preset else None
        composite = _requested_composite(options, registry)
        names = composite.submodels if composite else SUBMODELS
        random = {*options.random, *(preset.random if preset else ())}
        changes = parse_settings((*(preset.set if preset else ()), *options.set), names)
        configs = (options.encoder_config, options.decoder_config)
        settings = cls(
            references=dict(zip(names, (options.encoder, options.decoder), strict=True)),
            configs=dict(zip(names, configs, strict=True)),
            random=frozenset(SUBMODELS if "both" in random else random),
            share=options.share or bool(preset and preset.share),
            layers=parse_layers(options.layers, names),
            resized=options.resize_embeddings,
            changes=changes,
            ignore=parse_patterns(options.ignore, names),
            tokens=_requested_tokens(options, changes[""]),
            preset=preset,
            composite=composite,
        )
        if settings.share:
            settings._check_share()
        return settings

    def _check_share(self) -> None:
        if self.random:
            raise UsageError("share: newly initialized weights cannot be shared")
        if len({location_key(reference) for reference in self.references.values()}) > 1:
            raise UsageError(
                "share: encoder and decoder can share weights only if they are the same checkpoint",
                remedy="Give the same checkpoint twice.",
            )
        if len({self.layers.get(submodel) for submodel in SUBMODELS}) > 1:
            raise UsageError("share: encoder and decoder that share weights have the same layers")

    def role(self, submodel: str) -> str:
        """Return the role of a submodel."""
        return self.composite.roles[submodel] if self.composite else submodel

    def config_option(self, submodel: str) -> str:
        """Return the option that names the configuration of a submodel."""
        return f"--{SUBMODELS[[*self.references].index(submodel)]}-config"

    @property
    def generation(self) -> dict[str, Any]:
        """The fields that are set of ``generation_config.json``, without special tokens."""
        return {key: value for key, value in self.changes[""].items() if is_setting(key)}

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that are set of the pair's ``config.json``, without special tokens."""
        others = {*TOKEN_FIELDS.values(), *self.generation}
        return {key: value for key, value in self.changes[""].items() if key not in others}


_OF_DECODERS = (
    "preset",
    "random",
    "share",
    "init",
    "decoder_start_token",
    "eos_token",
    "pad_token",
)
"""Options that do not apply to a composite without a decoder."""


def _requested_composite(
    options: ComposeOptions, registry: ArchitectureRegistry
) -> Composite | None:
    """Return the composite without a decoder that is asked for, if one is.

    Raise UsageError if there is none of this name, or an option does not apply to it.
    """
    if options.model_type is None:
        return None
    composites = map(registry.composite, filter(registry.is_composite, registry.names))
    choices = {each.name: each for each in composites if each.accepts}
    composite = choices.get(registry.current_name(options.model_type))
    if composite is None:
        raise UsageError(
            f"model_type: {options.model_type!r} is not a composite without a decoder",
            remedy=f"One of: {', '.join(choices)}. Others follow from encoder and decoder.",
        )
    declared = options_of(ComposeOptions)
    if given := [name for name in _OF_DECODERS if getattr(options, name) != declared[name].default]:
        raise UsageError(
            f"--{given[0].replace('_', '-')} does not apply: {composite.name} has no decoder"
        )
    return composite


def parse_layers(options: Iterable[str], submodels: Sequence[str] = SUBMODELS) -> dict[str, str]:
    """Return submodel → layers, from options such as ``decoder=0,2,4`` and ``encoder=even:6``.

    Raise UsageError for anything that is not of this form, and a submodel that is given twice.
    """
    layers: dict[str, str] = {}
    for option in options:
        submodel, _, selection = option.partition("=")
        selection = selection.replace(" ", "")
        if submodel not in submodels or not (
            LAYER_RULE.fullmatch(selection) or LAYER_LIST.fullmatch(selection)
        ):
            name = submodels[1]
            raise UsageError(
                f"layers: {option!r} does not select layers of a submodel",
                remedy=f"Write {name}=0,2,4, or {name}=first:6, last:6 or even:6.",
            )
        if submodel in layers:
            raise UsageError(f"layers: those of the {submodel} are given twice")
        layers[submodel] = selection
    return layers


def parse_patterns(
    options: Iterable[str], submodels: Sequence[str] = SUBMODELS
) -> dict[str, list[str]]:
    """Return submodel → patterns, from options such as ``loss.*`` and ``encoder=classifier.*``."""
    patterns: dict[str, list[str]] = {submodel: [] for submodel in submodels}
    for option in options:
        submodel, equals, pattern = option.partition("=")
        one = bool(equals) and submodel in submodels
        for each in (submodel,) if one else submodels:
            patterns[each].append(pattern if one else option)
    return patterns


def _requested_tokens(
    options: ComposeOptions, fields: Mapping[str, Any]
) -> dict[str, str | int | None]:
    """Return role → id or text of the special token that an option or a field asks for."""
    tokens: dict[str, str | int | None] = {
        "start": options.decoder_start_token,
        "end": options.eos_token,
        "pad": options.pad_token,
    }
    for role, field in TOKEN_FIELDS.items():
        value = fields.get(field)
        if value is None:
            continue
        if tokens.get(role) not in (None, value, str(value)):
            raise UsageError(f"set: {field}={value} contradicts the option for the same token")
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise UsageError(f"set: {field}={value!r} is not a token")
        tokens[role] = value
    return tokens


def open_configs(
    settings: ComposeSettings, registry: ArchitectureRegistry, stack: ExitStack
) -> dict[str, Checkpoint]:
    """Open the configuration of each submodel, without weights.

    A submodel is missing in the result if its configuration can only be read next to its weights.
    Raise CheckpointError if a remote configuration cannot be fetched, UnsupportedError if a
    submodel is itself an encoder-decoder model.
    """
    opened = {}
    for submodel, reference in settings.references.items():
        try:
            config = settings.configs[submodel]
            option = settings.config_option(submodel)
            checkpoint = stack.enter_context(open_config(reference, config, option=option))
        except CheckpointError:
            if submodel in settings.random or is_remote(reference):
                raise
            continue  # opening the weights gives a better message
        stated = settings.changes[submodel].get("model_type")
        checkpoint = _detect_model_type(checkpoint, submodel, registry, stated)
        if "model_type" in checkpoint.config:
            opened[submodel] = _select_submodel(checkpoint, settings.role(submodel), registry)
        elif submodel in settings.random:
            opened[submodel] = checkpoint
    return opened


def _detect_model_type(
    checkpoint: Checkpoint, submodel: str, registry: ArchitectureRegistry, stated: object = None
) -> Checkpoint:
    """Return `checkpoint` with a ``model_type``; errors name the option of the submodel."""
    try:
        return detect_model_type(checkpoint, registry, stated)
    except CheckpointError as error:
        own = f"--set {submodel}.model_type="
        error.remedy = error.remedy and error.remedy.replace("--set model_type=", own)
        raise


def join_closed_composite(
    opened: Mapping[str, Checkpoint], settings: ComposeSettings, registry: ArchitectureRegistry
) -> dict[str, Checkpoint]:
    """Return both checkpoints as the submodels that their architectures become in a composite.

    So it is if the decoder's architecture has no decoder of its own, and both become parts of the
    same composite; otherwise they are returned unchanged.
    """
    names = {name: str(checkpoint.config.get("model_type")) for name, checkpoint in opened.items()}
    if {*names} != {*SUBMODELS} or not {*names.values()} <= {*registry.names}:
        return {**opened}
    decoder = registry.architecture(names["decoder"])
    if "decoder" in decoder.roles:
        return {**opened}
    for composite in map(registry.composite, decoder.becomes):
        parts = {
            name: part
            for name, checkpoint in opened.items()
            if (part := as_part_of(checkpoint, composite.name, registry))
        }
        if len(parts) == len(opened):
            return _with_derived_fields(parts, composite, settings, registry)
    return {**opened}


def _with_derived_fields(
    parts: Mapping[str, Checkpoint],
    composite: Composite,
    settings: ComposeSettings,
    registry: ArchitectureRegistry,
) -> dict[str, Checkpoint]:
    """Return the submodels with the fields of their configurations that follow from each other."""
    configs = model_configs(parts, settings, registry)
    raw = {name: dict(checkpoint.config) for name, checkpoint in parts.items()}
    for field, value in derived_fields(composite, configs).items():
        submodel, _, name = field.partition(".")
        if name:
            raw[submodel][name] = value
    return {name: checkpoint.with_config(raw[name]) for name, checkpoint in parts.items()}


def model_configs(
    opened: Mapping[str, Checkpoint], settings: ComposeSettings, registry: ArchitectureRegistry
) -> dict[str, ModelConfig]:
    """Return the configuration of each opened submodel, with the fields that are set."""
    return {
        submodel: ModelConfig(
            registry.architecture(checkpoint.architecture, checkpoint.config_path),
            apply_overrides(checkpoint.config, settings.changes[submodel]),
            str(checkpoint.config_path),
        )
        for submodel, checkpoint in opened.items()
    }


def open_sources(
    opened: Mapping[str, Checkpoint],
    settings: ComposeSettings,
    registry: ArchitectureRegistry,
    stack: ExitStack,
    headers: bool,
    streamed: bool,
) -> dict[str, SourceModel]:
    """Open the weights of each submodel, with the selected layers and resized embeddings.

    Of the submodels in `opened` the configurations are read already. If `headers`, no values will
    be read; if `streamed`, while they are downloaded. Raise UnsupportedError if layers cannot be
    selected or embeddings not be resized.
    """
    sources = {}
    for submodel, reference in settings.references.items():
        checkpoint = opened.get(submodel)
        if submodel not in settings.random or checkpoint is None:
            weights = stack.enter_context(
                open_files(
                    reference,
                    settings.configs[submodel],
                    headers=headers,
                    streamed=streamed,
                    ignore=settings.ignore[submodel],
                    option=settings.config_option(submodel),
                )
            )
            checkpoint = (
                weights.with_config(checkpoint.config)
                if checkpoint
                else _select_submodel(
                    _detect_model_type(weights, submodel, registry),
                    settings.role(submodel),
                    registry,
                )
            )
        raw = apply_overrides(checkpoint.config, settings.changes[submodel])
        source = SourceModel.from_checkpoint(submodel, checkpoint, registry, raw)
        if submodel in settings.layers:
            source = select_layers(source, settings.layers[submodel], registry.conventions)
        if settings.resized:
            source = resize_embeddings(source, registry.conventions)
        sources[submodel] = source
    return sources


def _select_submodel(
    checkpoint: Checkpoint, role: str, registry: ArchitectureRegistry
) -> Checkpoint:
    """Return the checkpoint as the nested model that can play the role."""
    checkpoint = select_submodel(checkpoint, registry, role)
    if registry.is_composite(checkpoint.architecture):
        raise UnsupportedError(
            f"{checkpoint.reference}: is a combined model itself",
            remedy="Split it first: `converter split`.",
        )
    return checkpoint


def plan_composition(
    pair: EncoderDecoderPair,
    options: ComposeOptions,
    settings: ComposeSettings,
    registry: ArchitectureRegistry,
) -> Plan:
    """Return the plan to write an encoder and a decoder as one model.

    Raise ConfigError if special tokens or settings for generation do not fit the decoder,
    UnsupportedError if a requested framework has no class for the pair.
    """
    sources, configs = pair.sources, pair.configs
    frameworks, skipped = supported_frameworks(configs, registry, options.to, options.force)
    init = options.init or ("normal" if settings.preset else None)  # the presets are as published
    cross_attention = init_cross_attention(
        init, pair.spec, configs["decoder"].architecture, pair.matched
    )
    tensors = plan_tensors(
        pair.spec,
        {**pair.matched, **cross_attention.copied},
        pair.duplicates,
        reasons=pair.reasons,
        init_dtype=pair.dtype,
        dtype=options.dtype,
        seed=options.seed,
        overrides=cross_attention.overrides,
        new_rows=options.resize_with,
    )
    directory = sources["decoder"].checkpoint.directory
    generation = GenerationSettings.of(configs["decoder"].raw, directory, settings.generation)
    tokens = resolve_tokens(configs["decoder"], directory, settings.tokens, generation)
    generation.check(configs["decoder"].attribute("vocabulary"))
    _log.info("tokens of the decoder: %s", ", ".join(f"{k} {v}" for k, v in tokens.ids.items()))
    auxiliary = collect_auxiliary_files(sources, options.tokenizer, one=pair.composite.closed)
    config = _config(pair, options, settings, tokens)
    decoder = configs["decoder"].architecture.roles["decoder"]
    return build_plan(
        "compose",
        [*sources.values()],
        tensors,
        [OutputModel(pair.spec, pair.composite.classes, frameworks, config)],
        [*(config.architecture for config in configs.values()), pair.composite],
        options,
        settings=_recorded_options(options, settings, cross_attention.rule),
        copied_files=auxiliary.copied,
        documents={
            GENERATION_CONFIG: generation_config(
                tokens.ids,
                {
                    **tokens.with_forced(generation.settings),
                    **({"use_cache": False} if decoder.uncached else {}),
                },
            ),
            **auxiliary.documents,
        },
        warnings=(
            *unknown_field_warnings(options.set, _known_fields(pair)),
            *skipped,
            *_preset_warnings(pair, settings.preset),
            *pair.notes,
            *ignored_bias_warnings(pair),
            *_split_warnings(pair, settings),
            *cross_attention.notes,
            *tokens.notes,
            *pair_warnings(sources, tokens.ids, generation.settings),
            *auxiliary.warnings,
            *generation_warnings(configs, pair.composite, frameworks),
        ),
    )


def _known_fields(pair: EncoderDecoderPair) -> dict[str, set[str]]:
    """Return submodel → the fields of its source and table; ``""`` → those of the pair."""
    composite = pair.composite
    derived = derived_fields(composite, pair.configs)
    fields = {"": {*composite.config, composite.tied_by, *derived}}
    for submodel, source in pair.sources.items():
        fields[submodel] = {*source.checkpoint.config, *source.config.architecture.config}
    return fields


def _config(
    pair: EncoderDecoderPair,
    options: ComposeOptions,
    settings: ComposeSettings,
    tokens: SpecialTokens,
) -> dict[str, Any]:
    """Return the ``config.json`` of the pair."""
    encoder, decoder = submodel_configs(pair, options).values()
    decoder = decoder_config(decoder, tokens.ids)
    tied = {pair.composite.tied_by: True} if settings.share else {}
    derived = derived_fields(pair.composite, pair.configs)
    return composed_config(
        pair.composite,
        {"encoder": encoder, "decoder": decoder},
        tokens.ids,
        {
            **{name: value for name, value in derived.items() if "." not in name},
            **tied,
            **settings.fields,
        },
    )


def submodel_configs(pair: EncoderDecoderPair, options: ComposeOptions) -> dict[str, Any]:
    """Return submodel → its configuration in the output."""
    return {
        submodel.name: submodel_config(
            submodel.source.config.raw,
            submodel.role,
            submodel.dtype if options.dtype == "keep" else options.dtype,
        )
        for submodel in pair.submodels
    }


def _recorded_options(
    options: ComposeOptions, settings: ComposeSettings, init: InitRule
) -> dict[str, Any]:
    """Return the options that decide what is written, for the manifest and the model card."""
    tokens = {
        name: getattr(options, name) for name in ("decoder_start_token", "eos_token", "pad_token")
    }
    return {
        "ignore": list(options.ignore),
        "init": init,
        "layers": settings.layers,
        "preset": options.preset,
        "random": sorted(settings.random),
        "resize_embeddings": options.resize_embeddings,
        "resize_with": options.resize_with if options.resize_embeddings else None,
        "seed": options.seed,
        "set": list(options.set),
        "share": settings.share,
        "tokenizer": options.tokenizer,
        **{name: str(token) for name, token in tokens.items() if token is not None},
    }


def _preset_warnings(pair: EncoderDecoderPair, preset: Preset | None) -> Iterator[str]:
    """Yield where a preset is used with other architectures than the paper's."""
    if preset is None:
        return
    published = {"encoder": preset.encoder, "decoder": preset.decoder}
    for submodel, config in pair.configs.items():
        if config.architecture.name != published[submodel]:
            yield (
                f"{preset.name} of {preset.paper} has {published[submodel]} as {submodel}; this is "
                f"{config.architecture.name}"
            )


def _split_warnings(pair: EncoderDecoderPair, settings: ComposeSettings) -> Iterator[str]:
    """Yield what submodels that `split` wrote had in common before, and have not any more."""
    checkpoints = [submodel.source.checkpoint for submodel in pair.submodels]
    manifest = split_manifest(*checkpoints)
    joint = checkpoints[0].directory.resolve().parent / JOINT_WEIGHTS
    if JOINT_WEIGHTS in dictionary(manifest.get("files")) and not joint.is_file():
        yield (
            f"{JOINT_WEIGHTS} is missing next to the two submodels that split wrote: what it held "
            "is newly initialized"
        )
    if not settings.share and manifest.get("share") is True:
        yield (
            "encoder and decoder shared their weights before they were split, and do not any more: "
            f"--set {pair.composite.tied_by}=true, if neither was trained since"
        )

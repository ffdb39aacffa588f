"""The plan of a composite without a decoder, such as a vision-text dual encoder."""

from __future__ import annotations

from typing import Any

from converter.architectures.registry import ArchitectureRegistry
from converter.options import ComposeOptions
from converter.plan import Plan
from converter.planning.compatibility import submodel_warnings, supported_frameworks
from converter.planning.composition import ComposeSettings, submodel_configs
from converter.planning.configs import unknown_field_warnings
from converter.planning.encoder_decoder import EncoderDecoderPair, ignored_bias_warnings
from converter.planning.planner import OutputModel, build_plan, plan_tensors
from converter.planning.tokenizer_files import collect_auxiliary_files


def plan_dual_encoder(
    pair: EncoderDecoderPair,
    options: ComposeOptions,
    settings: ComposeSettings,
    registry: ArchitectureRegistry,
) -> Plan:
    """Return the plan to write two encoders as one model, with what compares their outputs.

    Raise UnsupportedError if a requested framework has no class for the pair.
    """
    composite, configs = pair.composite, pair.configs
    frameworks, skipped = supported_frameworks(
        configs, registry, options.to, options.force, composite
    )
    tensors = plan_tensors(
        pair.spec,
        pair.matched,
        pair.duplicates,
        reasons=pair.reasons,
        init_dtype=pair.dtype,
        dtype=options.dtype,
        seed=options.seed,
        new_rows=options.resize_with,
    )
    tokenizer = "none" if options.tokenizer == "none" else "both"
    auxiliary = collect_auxiliary_files(pair.sources, tokenizer)
    fields = {name: {*source.config.raw} for name, source in pair.sources.items()}
    return build_plan(
        "compose",
        [*pair.sources.values()],
        tensors,
        [OutputModel(pair.spec, composite.classes, frameworks, _config(pair, options, settings))],
        [*(config.architecture for config in configs.values()), composite],
        options,
        settings={
            "model_type": composite.name,
            "ignore": list(options.ignore),
            "layers": settings.layers,
            "resize_embeddings": options.resize_embeddings,
            "resize_with": options.resize_with if options.resize_embeddings else None,
            "seed": options.seed,
            "set": list(options.set),
            "tokenizer": options.tokenizer,
        },
        copied_files=auxiliary.copied,
        documents=auxiliary.documents,
        warnings=(
            *unknown_field_warnings(options.set, {"": {*composite.config}, **fields}),
            *skipped,
            *pair.notes,
            *ignored_bias_warnings(pair),
            *submodel_warnings(pair.sources),
            *auxiliary.warnings,
            *(f"{name}: {composite.notes[name]}" for name in frameworks if name in composite.notes),
        ),
    )


def _config(
    pair: EncoderDecoderPair, options: ComposeOptions, settings: ComposeSettings
) -> dict[str, Any]:
    """Return the ``config.json``, with the fields of both encoders and of what compares them."""
    composite = pair.composite
    nested = submodel_configs(pair, options)
    _, second = nested.values()
    return {
        "architectures": [composite.classes["pytorch"]],
        "dtype": second.get("dtype", second.get("torch_dtype")),
        "model_type": composite.name,
        **composite.config,
        **{composite.configs[submodel]: config for submodel, config in nested.items()},
        **settings.fields,
    }

"""Two checkpoints in, one encoder-decoder checkpoint out."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from converter.architectures.registry import ArchitectureRegistry
from converter.execution.write_checkpoint import WriteResult, write_checkpoint
from converter.file_names import CONFIG, GENERATION_CONFIG
from converter.models.source_model import SourceModel
from converter.option_declaration import takes
from converter.options import SUBMODELS, ComposeOptions, OutputOptions
from converter.plan import Plan
from converter.planning.compatibility import check_compatibility, supported_frameworks
from converter.planning.compose_options import ComposeSettings
from converter.planning.cross_attention_init import init_cross_attention
from converter.planning.encoder_decoder import EncoderDecoderPair
from converter.planning.generation_config import GenerationSettings
from converter.planning.output_configs import (
    composed_config,
    generation_config,
    with_role_fields,
    with_tokens,
    without_settings,
)
from converter.planning.pair_warnings import pair_warnings
from converter.planning.special_tokens import resolve_tokens
from converter.planning.split_projection import projection_file, projection_tensors, split_manifest
from converter.planning.tensor_plan import plan_tensors
from converter.planning.tokenizer_files import collect_auxiliary_files
from converter.planning.weight_files import plan_files
from converter.safe_json import to_json

_log = logging.getLogger(__name__)


@takes(ComposeOptions)
def compose(options: ComposeOptions) -> WriteResult:
    """Join an encoder and a decoder into one checkpoint for each requested framework.

    Returns:
        What was written, or with ``dry_run`` what would be written.

    Raises:
        ConverterError: see `converter.errors`; nothing is written then.

    """
    wishes = ComposeSettings.of(options)
    registry = ArchitectureRegistry(Path(path) for path in options.mapping)
    check_compatibility(wishes, registry, options.to)
    with ExitStack() as stack:
        sources = {
            submodel: wishes.source(submodel, registry, stack, options.dry_run)
            for submodel in SUBMODELS
        }
        decoder_source = sources["decoder"]
        frameworks, warnings = supported_frameworks(
            {submodel: source.config for submodel, source in sources.items()}, registry, options.to
        )
        joined = EncoderDecoderPair.of(sources["encoder"], decoder_source, registry, wishes.random)
        findings = dict(joined.findings)
        notes = [*wishes.preset_mismatch_warnings(joined), *joined.notes]
        opened = [source.checkpoint for source in sources.values()]
        if joined.own_slots and (joint := projection_file(*opened)):
            findings |= projection_tensors(joint, joined.own_slots, stack)
            notes.append(f"{joint.name}: taken from beside the two halves that split made")
        if not wishes.share and split_manifest(*opened).get("share") is True:
            notes.append(
                "the halves shared their weights before they were split, and do not any more: "
                f"--set {joined.composite.tied_by}=true, if neither was trained since"
            )
        beginning = init_cross_attention(
            options.init, joined.target, decoder_source.architecture, findings
        )
        findings |= beginning.copied
        notes += beginning.notes
        tensors = plan_tensors(
            joined.target,
            findings,
            joined.reasons,
            joined.dtype,
            dtype=options.dtype,
            seed=options.seed,
            draws=beginning.draws,
            new_rows=options.resize_with,
        )
        weights = plan_files(
            joined.target,
            tensors,
            joined.composite.classes,
            frameworks,
            options.pytorch_format,
            options.shard_bytes,
        )
        asked = wishes.tokens(
            {
                "start": options.decoder_start_token,
                "end": options.eos_token,
                "pad": options.pad_token,
            }
        )
        generation = GenerationSettings.of(
            decoder_source.config.raw, decoder_source.checkpoint.directory, wishes.settings
        )
        tokens = resolve_tokens(
            decoder_source.config, decoder_source.checkpoint.directory, asked, generation
        )
        vocabularies = {submodel: _vocabulary(source) for submodel, source in sources.items()}
        generation.check(vocabularies["decoder"])
        _log.info("tokens of the decoder: %s", dict(tokens.ids))
        notes += [
            *tokens.notes,
            *pair_warnings(sources, tokens.ids, vocabularies, generation.settings),
        ]
        configs = _configs(joined, options)
        configs["decoder"] = with_tokens(without_settings(configs["decoder"]), tokens.ids)
        shared = {joined.composite.tied_by: True} if wishes.share else {}
        along = collect_auxiliary_files(sources, options.tokenizer)
        plan = Plan(
            command="compose",
            tensors=tensors,
            files=weights.files,
            documents={
                CONFIG: to_json(
                    composed_config(
                        joined.composite, configs, tokens.ids, {**shared, **wishes.fields}
                    )
                ),
                GENERATION_CONFIG: generation_config(
                    tokens.ids, tokens.with_forced(generation.settings)
                ),
                **weights.indexes,
                **along.documents,
            },
            copied_files=along.copied,
            warnings=(*warnings, *notes, *weights.notes),
        )
        return write_checkpoint(
            plan,
            options.output,
            options,
            sources=[*sources.values()],
            tables=[*(source.architecture for source in sources.values()), joined.composite],
            settings={
                "init": options.init,
                "layers": wishes.layers,
                "preset": options.preset,
                "random": sorted(wishes.random),
                "resize_embeddings": options.resize_embeddings,
                "resize_with": options.resize_with if options.resize_embeddings else None,
                "seed": options.seed,
                "set": list(options.set),
                "share": wishes.share,
                "tokenizer": options.tokenizer,
                **{
                    option: str(token)
                    for option in ("decoder_start_token", "eos_token", "pad_token")
                    if (token := getattr(options, option)) is not None
                },
            },
            classes={"": joined.composite.classes},
        )


def _vocabulary(source: SourceModel) -> int | None:
    """How many embeddings of tokens a half has, if any."""
    found = source.config.attribute("vocabulary")
    return found if isinstance(found, int) else None


def _configs(joined: EncoderDecoderPair, options: OutputOptions) -> dict[str, dict[str, Any]]:
    """Half → its configuration in its role and in the dtype that is written."""
    return {
        submodel.name: with_role_fields(
            submodel.source.config.raw,
            submodel.role,
            submodel.dtype if options.dtype == "keep" else options.dtype,
        )
        for submodel in joined.submodels
    }

"""Two checkpoints in, one encoder-decoder checkpoint out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Unpack

from converter.architectures.registry import ArchitectureRegistry
from converter.errors import UsageError
from converter.execution.write_checkpoint import WriteResult, write_checkpoint
from converter.file_names import CONFIG, GENERATION_CONFIG
from converter.models.source_model import SourceModel
from converter.options import OutputOptions, OutputOptionsDict
from converter.plan import Plan
from converter.planning.compatibility import check_compatibility, supported_frameworks
from converter.planning.compose_options import SUBMODELS, ComposeOptions
from converter.planning.cross_attention_init import CROSS_ATTENTION_RULES, init_cross_attention
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
from converter.planning.resize_embeddings import NEW_ROWS
from converter.planning.special_tokens import resolve_tokens
from converter.planning.split_projection import projection_file, projection_tensors, split_manifest
from converter.planning.tensor_plan import plan_tensors
from converter.planning.tokenizer_files import TOKENIZERS, collect_auxiliary_files
from converter.planning.weight_files import plan_files
from converter.safe_json import to_json

_log = logging.getLogger(__name__)


def compose(
    encoder: str | Path,
    decoder: str | Path,
    output: str | Path,
    *,
    like: str | None = None,
    random: Sequence[str] = (),
    share: bool = False,
    layers: Sequence[str] = (),
    seed: int = 0,
    init: str = "normal",
    tokenizer: str = "both",
    resize_embeddings: bool = False,
    resize_with: str = "mean",
    decoder_start_token: str | int | None = None,
    eos_token: str | int | None = None,
    pad_token: str | int | None = None,
    set: Sequence[str] = (),
    mapping: Sequence[str | Path] = (),
    encoder_config: str | Path | None = None,
    decoder_config: str | Path | None = None,
    **options: Unpack[OutputOptionsDict],
) -> WriteResult:
    """Join an encoder and a decoder into one checkpoint in every asked framework.

    Args:
        encoder: checkpoint whose model encodes: a directory or a weight file.
        decoder: checkpoint whose model decodes.
        output: the directory to be made.
        like: a configuration of the literature by name, as `converter families` lists them; it
            decides `random`, `share` and fields, which may be set besides.
        random: halves whose weights are all drawn anew, from their configuration alone.
        share: whether the halves share their weights; both must be the same checkpoint then.
        layers: which layers of a half to take, if not all: ``decoder=0,2,4``, or
            ``decoder=even:6``, ``first:6``, ``last:6``.
        seed: of the fresh weights.
        init: how fresh cross-attention begins: ``normal`` (the family's own rule, as PyTorch
            transformers has it), ``truncated-normal`` (the same scale, cut at two sigma),
            ``xavier`` (evenly, by Glorot's rule), ``zero-output`` (it adds nothing at first) or
            ``copy-self-attention`` (as the decoder's self-attention, where shapes allow).
        tokenizer: whose files to copy; of ``both``, the decoder's go to ``decoder_tokenizer/``
            unless they are the same.
        resize_embeddings: whether embeddings and heads grow or are cut to the size of the tokenizer
            beside each half.
        resize_with: what further rows are: the ``mean`` of the others, or ``normal``, the family's
            own rule.
        decoder_start_token: id or text of the token that generation starts with.
        eos_token: id or text of the token that ends it.
        pad_token: id or text of the token that pads.
        set: configuration fields, ``encoder.KEY=VALUE``, ``decoder.KEY=VALUE`` or ``KEY=VALUE``.
        mapping: a user's own mapping tables.
        encoder_config: configuration of the encoder, where none lies beside it.
        decoder_config: configuration of the decoder, where none lies beside it.
        options: see `OutputOptions`.

    Returns:
        What was written, or with ``dry_run`` what would be.

    Raises:
        ConverterError: see `converter.errors`; nothing is written then.

    """
    wanted = OutputOptions(**options)
    if init not in CROSS_ATTENTION_RULES:
        raise UsageError(f"init: {init!r} is none of {', '.join(CROSS_ATTENTION_RULES)}")
    if tokenizer not in TOKENIZERS:
        raise UsageError(f"tokenizer: {tokenizer!r} is none of {', '.join(TOKENIZERS)}")
    if resize_with not in NEW_ROWS:
        raise UsageError(f"resize_with: {resize_with!r} is none of {', '.join(NEW_ROWS)}")
    wishes = ComposeOptions.of(
        encoder,
        decoder,
        like=like,
        random=random,
        share=share,
        layers=layers,
        resized=resize_embeddings,
        settings=set,
        configs=(encoder_config, decoder_config),
    )
    registry = ArchitectureRegistry(Path(path) for path in mapping)
    check_compatibility(wishes, registry, wanted.to)
    with ExitStack() as stack:
        sources = {
            submodel: wishes.source(submodel, registry, stack, wanted.dry_run)
            for submodel in SUBMODELS
        }
        decoder_source = sources["decoder"]
        frameworks, warnings = supported_frameworks(
            {submodel: source.config for submodel, source in sources.items()}, registry, wanted.to
        )
        joined = EncoderDecoderPair.of(sources["encoder"], decoder_source, registry, wishes.drawn)
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
        beginning = init_cross_attention(init, joined.target, decoder_source.architecture, findings)
        findings |= beginning.copied
        notes += beginning.notes
        tensors = plan_tensors(
            joined.target,
            findings,
            joined.reasons,
            joined.dtype,
            dtype=wanted.dtype,
            seed=seed,
            draws=beginning.draws,
            new_rows=resize_with,
        )
        weights = plan_files(
            joined.target,
            tensors,
            joined.composite.classes,
            frameworks,
            wanted.pytorch_format,
            wanted.shard_bytes,
        )
        asked = wishes.tokens({"start": decoder_start_token, "end": eos_token, "pad": pad_token})
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
        configs = _configs(joined, wanted)
        configs["decoder"] = with_tokens(without_settings(configs["decoder"]), tokens.ids)
        shared = {joined.composite.tied_by: True} if wishes.share else {}
        along = collect_auxiliary_files(sources, tokenizer)
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
            output,
            wanted,
            sources=[*sources.values()],
            tables=[*(source.architecture for source in sources.values()), joined.composite],
            settings={
                "init": init,
                "layers": wishes.layers,
                "like": like,
                "random": sorted(wishes.drawn),
                "resize_embeddings": resize_embeddings,
                "resize_with": resize_with if resize_embeddings else None,
                "seed": seed,
                "set": list(set),
                "share": wishes.share,
                "tokenizer": tokenizer,
                **{
                    option: str(token)
                    for option, token in (
                        ("decoder_start_token", decoder_start_token),
                        ("eos_token", eos_token),
                        ("pad_token", pad_token),
                    )
                    if token is not None
                },
            },
            classes={"": joined.composite.classes},
        )


def _vocabulary(source: SourceModel) -> int | None:
    """How many embeddings of tokens a half has, if any."""
    found = source.config.attribute("vocabulary")
    return found if isinstance(found, int) else None


def _configs(joined: EncoderDecoderPair, wanted: OutputOptions) -> dict[str, dict[str, Any]]:
    """Half → its configuration in its role and in the dtype that is written."""
    return {
        submodel.name: with_role_fields(
            submodel.source.config.raw,
            submodel.role,
            submodel.dtype if wanted.dtype == "keep" else wanted.dtype,
        )
        for submodel in joined.submodels
    }

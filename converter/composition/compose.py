"""Two checkpoints in, one encoder-decoder checkpoint out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from converter.checkpoint import Checkpoint, open_checkpoint
from converter.composition.assemble import Finding, plan_files, plan_tensors
from converter.composition.documents import (
    GENERATION_CONFIG,
    composed_config,
    generation_config,
    in_role,
    same_files,
    tokenizer_files,
)
from converter.composition.frameworks import choose, role_obstacles
from converter.composition.options import OutputOptions, parse_settings, updated
from converter.composition.production import Result, produce
from converter.composition.source import Source, required
from converter.composition.tokens import resolve_tokens
from converter.errors import UnsupportedError, UsageError
from converter.jsonfile import to_json
from converter.matching import dominant_dtype
from converter.plan import Plan
from converter.tables.blueprint import CROSS_ATTENTION, Blueprint, Draftsman
from converter.tables.library import Library

INITIALISERS = ("normal", "truncated-normal")
TOKENIZERS = ("encoder", "decoder", "both", "none")


def compose(
    encoder: str | Path,
    decoder: str | Path,
    output: str | Path,
    *,
    seed: int = 0,
    init: str = "normal",
    tokenizer: str = "both",
    decoder_start_token: str | int | None = None,
    eos_token: str | int | None = None,
    pad_token: str | int | None = None,
    set: Sequence[str] = (),
    mapping: Sequence[str | Path] = (),
    encoder_config: str | Path | None = None,
    decoder_config: str | Path | None = None,
    **options: Any,
) -> Result:
    """Join an encoder and a decoder into one checkpoint in every asked framework.

    Args:
        encoder: checkpoint whose model encodes: a directory or a weight file.
        decoder: checkpoint whose model decodes.
        output: the directory to be made.
        seed: of the fresh weights.
        init: how fresh cross-attention is drawn: ``normal`` (the family's own rule, as PyTorch
            transformers has it) or ``truncated-normal`` (the same scale, cut at two sigma).
        tokenizer: whose files to copy; of ``both``, the decoder's go to ``decoder_tokenizer/``
            unless they are the same.
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
    if init not in INITIALISERS:
        raise UsageError(f"init: {init!r} is none of {', '.join(INITIALISERS)}")
    if tokenizer not in TOKENIZERS:
        raise UsageError(f"tokenizer: {tokenizer!r} is none of {', '.join(TOKENIZERS)}")
    library = Library(Path(path) for path in mapping)
    composite = library.composite("encoder-decoder")
    changes = parse_settings(set, composite.halves)
    with ExitStack() as stack:
        sources: dict[str, Source] = {}
        for half, reference, config in zip(
            composite.halves, (encoder, decoder), (encoder_config, decoder_config), strict=True
        ):
            checkpoint = stack.enter_context(open_checkpoint(reference, config))
            _refuse_composite(checkpoint, library)
            raw = updated(checkpoint.config, changes[half])
            sources[half] = Source.understand(half, checkpoint, library, raw)
        obstacles = {
            framework: f"as {half}, {reason}" if len(sources) > 1 else reason
            for half, source in sources.items()
            for framework, reason in role_obstacles(source.config, half).items()
        }
        _refuse_other_width(sources["decoder"])
        frameworks, warnings = choose(wanted.to, obstacles)

        draftsman = Draftsman(library.vocabulary)
        target = _target(draftsman, sources, composite_name="encoder-decoder", library=library)
        findings, notes = _findings(sources, target)
        dtypes = {half: dominant_dtype(source.report.matched) for half, source in sources.items()}
        reasons = _reasons(sources)
        tensors = plan_tensors(
            target,
            findings,
            reasons,
            lambda slot: dtypes["encoder" if slot.name.startswith("encoder.") else "decoder"],
            dtype=wanted.dtype,
            seed=seed,
            rule=lambda slot: init if slot.part == CROSS_ATTENTION else slot.rule,
        )
        files, widened = plan_files(
            target, tensors, composite.classes, frameworks, wanted.pytorch_format
        )
        asked = {"start": decoder_start_token, "end": eos_token, "pad": pad_token}
        tokens = resolve_tokens(
            sources["decoder"].config, sources["decoder"].checkpoint.directory, asked
        )
        dtypes = {half: dtypes[half] if wanted.dtype == "keep" else wanted.dtype for half in dtypes}
        combined = composed_config(
            composite,
            {
                half: in_role(source.config.raw, source.family.roles[half], dtypes[half])
                for half, source in sources.items()
            },
            tokens,
            dtypes["decoder"],
            changes[""],
        )
        plan = Plan(
            command="compose",
            tensors=tensors,
            files=files,
            documents={
                "config.json": to_json(combined),
                GENERATION_CONFIG: generation_config(tokens),
            },
            copied_files=_tokenizers(sources, tokenizer),
            warnings=(*warnings, *notes, *widened),
        )
        return produce(
            plan,
            Path(output),
            wanted,
            sources=tuple(sources.values()),
            tables=(*(source.family for source in sources.values()), composite),
            settings={"init": init, "seed": seed, "tokenizer": tokenizer},
        )


def _refuse_composite(checkpoint: Checkpoint, library: Library) -> None:
    if library.is_composite(checkpoint.family):
        raise UnsupportedError(
            f"{checkpoint.reference}: is an encoder-decoder model itself",
            remedy="Take it apart first: `converter split`.",
        )


def _refuse_other_width(decoder: Source) -> None:
    """The frameworks accept this field and fail at the first forward pass."""
    width = decoder.config.raw.get("cross_attention_hidden_size")
    if width is not None:
        raise UnsupportedError(
            f"{decoder.config.file}: cross_attention_hidden_size is {width!r}, which keeps the "
            "frameworks from joining the two widths",
            remedy="Clear it: --set decoder.cross_attention_hidden_size=null.",
        )


def _target(
    draftsman: Draftsman, sources: Mapping[str, Source], composite_name: str, library: Library
) -> Blueprint:
    """The blueprint of the composite."""
    models = {}
    for half, source in sources.items():
        model = source.family.models[source.family.roles[half].model]
        parts = [*model.parts]
        if half == "decoder":
            parts.append(CROSS_ATTENTION)
        models[half] = draftsman.model(source.config, parts, model.heads, prefix=half)
    return draftsman.composite(
        library.composite(composite_name),
        {half: source.config for half, source in sources.items()},
        models,
    )


def _findings(
    sources: Mapping[str, Source], target: Blueprint
) -> tuple[dict[str, Finding], list[str]]:
    """Where the values of the target's tensors lie, and what to tell the user.

    Raises:
        MatchError: if a source does not fit its table and configuration.
    """
    findings: dict[str, Finding] = {}
    notes = []
    for half, source in sources.items():
        lead = f"{half}."
        slots = [slot for slot in target.slots if slot.name.startswith(lead)]
        own = {slot.name.removeprefix(lead): slot for slot in slots}
        model = source.family.models[source.family.roles[half].model]
        fresh = (*model.parts, *model.heads, CROSS_ATTENTION)
        matched = source.report.matched
        needed = required((slot for slot in source.known.slots if slot.name in own), matched, fresh)
        source.report.require(needed)
        for name, slot in own.items():
            if name in matched:
                copies = (
                    stored
                    for claimed_by, stored in source.report.copies.get(name, ())
                    if claimed_by in own
                )
                findings[slot.name] = Finding(matched[name], tuple(copies))
        unused = [name for name in matched if name not in own]
        source.report.leave_out(unused, f"not part of {model.name}")
        absent = {slot.part for slot in slots if slot.name not in findings and not slot.tied_to}
        for part in sorted(absent - {CROSS_ATTENTION}):
            notes.append(f"{half}: has no {part}, which is drawn anew")
    return findings, notes


def _reasons(sources: Mapping[str, Source]) -> dict[str, str]:
    """Part of the target → why its tensors are drawn anew."""
    reasons = {CROSS_ATTENTION: "connects the decoder with the encoder; no source has it"}
    reasons["encoder-decoder"] = "leads from the encoder's width to the decoder's"
    for half, source in sources.items():
        model = source.family.models[source.family.roles[half].model]
        for part in (*model.parts, *model.heads):
            reasons.setdefault(part, f"the {half}'s checkpoint has no {part}")
    return reasons


def _tokenizers(sources: Mapping[str, Source], wanted: str) -> dict[str, Path]:
    """The tokenizer files to copy."""
    found = {half: tokenizer_files(source.checkpoint.directory) for half, source in sources.items()}
    if wanted in found:
        return found[wanted]
    if wanted == "none":
        return {}
    if not found["decoder"] or same_files(found["encoder"], found["decoder"]):
        return found["encoder"]
    below = tokenizer_files(sources["decoder"].checkpoint.directory, "decoder_tokenizer/")
    return {**found["encoder"], **below}

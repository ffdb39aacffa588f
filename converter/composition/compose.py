"""Two checkpoints in, one encoder-decoder checkpoint out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from converter.checkpoint import Checkpoint, open_checkpoint, open_configuration
from converter.composition.assemble import plan_tensors
from converter.composition.documents import (
    GENERATION_CONFIG,
    composed_config,
    generation_config,
    in_role,
    processor_files,
    same_files,
    tokenizer_files,
    with_tokens,
)
from converter.composition.files import plan_files
from converter.composition.frameworks import choose
from converter.composition.joining import Joined
from converter.composition.joint import joint_findings, joint_of
from converter.composition.layers import parse_layers, take_layers
from converter.composition.options import OutputOptions, parse_settings, updated
from converter.composition.preflight import regrets
from converter.composition.production import Result, produce
from converter.composition.resize import NEW_ROWS, resize
from converter.composition.source import Source
from converter.composition.tokens import resolve_tokens
from converter.composition.warm_start import INITIALISERS, begin
from converter.errors import UnsupportedError, UsageError
from converter.identification import enter, identify
from converter.jsonfile import to_json
from converter.plan import Plan
from converter.tables.library import Library
from converter.tables.recipes import Recipe, recipe_named

HALVES = ("encoder", "decoder")
TOKENIZERS = ("encoder", "decoder", "both", "none")


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
    **options: Any,
) -> Result:
    """Join an encoder and a decoder into one checkpoint in every asked framework.

    Args:
        encoder: checkpoint whose model encodes: a directory or a weight file.
        decoder: checkpoint whose model decodes.
        output: the directory to be made.
        like: a configuration of the literature by name, see `converter.tables.recipes`; it decides
            `random`, `share` and fields, which may be set besides.
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
    if init not in INITIALISERS:
        raise UsageError(f"init: {init!r} is none of {', '.join(INITIALISERS)}")
    if tokenizer not in TOKENIZERS:
        raise UsageError(f"tokenizer: {tokenizer!r} is none of {', '.join(TOKENIZERS)}")
    if resize_with not in NEW_ROWS:
        raise UsageError(f"resize_with: {resize_with!r} is none of {', '.join(NEW_ROWS)}")
    recipe = recipe_named(like) if like else None
    drawn = {*random, *(recipe.random if recipe else ())}
    share = share or bool(recipe and recipe.share)
    _check_halves(drawn, share, encoder, decoder)
    library = Library(Path(path) for path in mapping)
    changes = parse_settings((*(recipe.settings if recipe else ()), *set), HALVES)
    kept = parse_layers(layers, HALVES)
    if share and kept.get("encoder") != kept.get("decoder"):
        raise UsageError("share: halves that share their weights have the same layers")
    with ExitStack() as stack:
        encoder_source, decoder_source = (
            _source(
                half,
                stack.enter_context(
                    (open_configuration if half in drawn else open_checkpoint)(reference, own)
                ),
                library,
                changes[half],
                kept.get(half),
                resize_embeddings,
            )
            for half, reference, own in zip(
                HALVES, (encoder, decoder), (encoder_config, decoder_config), strict=True
            )
        )
        joined = Joined.of(encoder_source, decoder_source, library, drawn)
        if share:
            changes[""] = {joined.composite.shared: True, **changes[""]}
        frameworks, warnings = choose(wanted.to, joined.obstacles)
        findings = dict(joined.findings)
        notes = [*_other_families(recipe, joined), *joined.notes]
        places = (encoder_source.checkpoint.directory, decoder_source.checkpoint.directory)
        if joined.own_slots and (joint := joint_of(*places)):
            findings |= joint_findings(joint, joined.own_slots, stack)
            notes.append(f"{joint.name}: taken from beside the two halves that split made")
        beginning = begin(init, joined.target, decoder_source.family, findings)
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
        asked = {"decoder_start": decoder_start_token, "eos": eos_token, "pad": pad_token}
        tokens = resolve_tokens(
            decoder_source.config,
            decoder_source.checkpoint.directory,
            {"start": decoder_start_token, "end": eos_token, "pad": pad_token},
        )
        halves = {half.name: half.source for half in joined.halves}
        vocabularies = {half: _vocabulary(source) for half, source in halves.items()}
        notes += regrets(halves, tokens, vocabularies)
        configs = _configs(joined, wanted)
        configs["decoder"] = with_tokens(configs["decoder"], tokens)
        plan = Plan(
            command="compose",
            tensors=tensors,
            files=weights.files,
            documents={
                "config.json": to_json(
                    composed_config(joined.composite, configs, tokens, changes[""])
                ),
                GENERATION_CONFIG: generation_config(tokens),
                **weights.indexes,
            },
            copied_files=_travelling(joined, tokenizer),
            warnings=(*warnings, *notes, *weights.notes),
        )
        return produce(
            plan,
            Path(output),
            wanted,
            sources=(encoder_source, decoder_source),
            tables=(encoder_source.family, decoder_source.family, joined.composite),
            settings={
                "init": init,
                "layers": kept,
                "like": like,
                "random": sorted(drawn),
                "resize_embeddings": resize_with if resize_embeddings else None,
                "seed": seed,
                "set": list(set),
                "share": share,
                "tokenizer": tokenizer,
                **{
                    f"{name}_token": str(token)
                    for name, token in asked.items()
                    if token is not None
                },
            },
            classes={"": joined.composite.classes},
        )


def _vocabulary(source: Source) -> int | None:
    """How many embeddings of tokens a half has, if any."""
    found = source.config.measure("vocabulary")
    return found if isinstance(found, int) else None


def _check_halves(
    drawn: Collection[str], share: bool, encoder: str | Path, decoder: str | Path
) -> None:
    for half in drawn:
        if half not in HALVES:
            raise UsageError(f"random: {half!r} is none of {', '.join(HALVES)}")
    if share and drawn:
        raise UsageError("share: weights that are drawn anew are not shared")
    if share and Path(encoder).resolve() != Path(decoder).resolve():
        raise UsageError(
            "share: the halves can share their weights only if both are one checkpoint",
            remedy="Give the same checkpoint twice.",
        )


def _other_families(recipe: Recipe | None, joined: Joined) -> list[str]:
    """What to say where a recipe is followed with other families than the paper's."""
    if recipe is None:
        return []
    wanted = {"encoder": recipe.encoder, "decoder": recipe.decoder}
    return [
        f"{recipe.name} of {recipe.paper} has {wanted[half.name]} as {half.name};"
        f" this is {half.source.family.name}"
        for half in joined.halves
        if half.source.family.name != wanted[half.name]
    ]


def _source(
    half: str,
    checkpoint: Checkpoint,
    library: Library,
    changes: Mapping[str, Any],
    layers: str | None,
    resized: bool,
) -> Source:
    identify(checkpoint, library)
    enter(checkpoint, library, half)
    if library.is_composite(checkpoint.family):
        raise UnsupportedError(
            f"{checkpoint.reference}: is an encoder-decoder model itself",
            remedy="Take it apart first: `converter split`.",
        )
    raw = updated(checkpoint.config, changes)
    source = Source.understand(half, checkpoint, library, raw)
    if layers:
        source = take_layers(source, layers, library.vocabulary)
    return resize(source, library.vocabulary) if resized else source


def _configs(joined: Joined, wanted: OutputOptions) -> dict[str, dict[str, Any]]:
    """Half → its configuration in its role and in the dtype that is written."""
    return {
        half.name: in_role(
            half.source.config.raw,
            half.role,
            half.dtype if wanted.dtype == "keep" else wanted.dtype,
        )
        for half in joined.halves
    }


def _travelling(joined: Joined, wanted: str) -> dict[str, Path]:
    """The files to copy: the encoder's processors, and the tokenizers."""
    encoder, decoder = (half.source for half in joined.halves)
    processors = processor_files(encoder.checkpoint.directory)
    return {**processors, **_tokenizers(encoder, decoder, wanted)}


def _tokenizers(encoder: Source, decoder: Source, wanted: str) -> dict[str, Path]:
    """The tokenizer files to copy. An encoder of images or sound has none: what lies beside it
    was for the head that it had."""
    places = {"encoder": encoder.checkpoint.directory, "decoder": decoder.checkpoint.directory}
    found = {name: tokenizer_files(directory) for name, directory in places.items()}
    if encoder.config.measure("vocabulary") is None:
        found["encoder"] = {}
    if wanted in found:
        return found[wanted]
    if wanted == "none":
        return {}
    if not found["encoder"]:
        return found["decoder"]
    if not found["decoder"] or same_files(found["encoder"], found["decoder"]):
        return found["encoder"]
    return {**found["encoder"], **tokenizer_files(places["decoder"], "decoder_tokenizer/")}

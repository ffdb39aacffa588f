"""What a person would regret later, told before anything is read in full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from converter.models.source_model import SourceModel
from converter.planning.tokenizer_files import TokenizerFiles, non_negative_int

_LENGTHS = ("max_length", "max_new_tokens")
"""The settings of generation that bound how much is written, in tokens."""


def pair_warnings(
    submodels: Mapping[str, SourceModel],
    tokens: Mapping[str, int],
    vocabularies: Mapping[str, int | None],
    settings: Mapping[str, Any],
) -> Iterator[str]:
    """Everything about two halves that works, and yet may not be what was meant.

    Args:
        submodels: half → its source.
        tokens: role → id, as the composition has them.
        vocabularies: half → number of embeddings that it will have, ``None`` for one of no texts.
        settings: of generation, as they will be written.

    """
    tokenizers = {
        submodel: TokenizerFiles(source.checkpoint.directory)
        for submodel, source in submodels.items()
        if vocabularies[submodel] is not None
    }
    for submodel, source in submodels.items():
        yield from _heads(submodel, source)
    for submodel, tokenizer in tokenizers.items():
        yield from _vocabulary(submodel, tokenizer, vocabularies[submodel])
    yield from _positions(submodels, settings)
    if tokens["start"] == tokens["pad"]:
        yield (
            "the decoder starts with the token that pads: give decoder_attention_mask in training, "
            "or transformers hides the start, and generate() continues otherwise than was learned"
        )
    if len(tokenizers) == len(submodels):
        yield from _casing(tokenizers)
        yield from _missing(tokenizers)
        yield from _padding(submodels, tokenizers, tokens)


def _heads(submodel: str, source: SourceModel) -> Iterator[str]:
    width, heads = (source.config.attribute(name) for name in ("width", "heads"))
    if isinstance(width, int) and isinstance(heads, int) and heads > 0 and width % heads:
        yield f"{submodel}: its width {width} is no multiple of its {heads} attention heads"


def _vocabulary(submodel: str, tokenizer: TokenizerFiles, vocabulary: int | None) -> Iterator[str]:
    size = tokenizer.size
    if size is not None and vocabulary is not None and size > vocabulary:
        yield (
            f"{submodel}: its tokenizer has {size:,} tokens, the model {vocabulary:,} embeddings; "
            "the others fail when they are used: --resize-embeddings"
        )


def _positions(submodels: Mapping[str, SourceModel], settings: Mapping[str, Any]) -> Iterator[str]:
    reads, writes = (_usable(submodels[submodel]) for submodel in ("encoder", "decoder"))
    if reads is not None and writes is not None and 2 * writes < reads:
        yield (
            f"decoder: has {writes:,} positions and the encoder {reads:,}: it can write no longer "
            "texts than that"
        )
    for name in _LENGTHS:
        length = non_negative_int(settings.get(name))
        if writes is not None and length is not None and length > writes:
            yield (
                f"decoder: {name} is {length:,} and it has {writes:,} positions, beyond which "
                f"generate() fails: --set {name}={writes}"
            )


def _usable(source: SourceModel) -> int | None:
    """How many tokens a half has positions for, ``None`` if nothing bounds them."""
    rows, first = (source.config.attribute(name) for name in ("positions", "first_position"))
    return rows - (first if isinstance(first, int) else 0) if isinstance(rows, int) else None


def _casing(tokenizers: Mapping[str, TokenizerFiles]) -> Iterator[str]:
    reads, writes = (tokenizers[submodel].lowercases for submodel in ("encoder", "decoder"))
    if reads is not None and writes is not None and reads != writes:
        which = {True: "lower case only", False: "upper and lower case"}
        yield f"the encoder's tokenizer reads {which[reads]}, the decoder's writes {which[writes]}"


def _missing(tokenizers: Mapping[str, TokenizerFiles]) -> Iterator[str]:
    sizes = {submodel: tokenizer.size for submodel, tokenizer in tokenizers.items()}
    for submodel, size in sizes.items():
        if size is None and any(sizes.values()):
            yield f"{submodel}: no vocabulary of a tokenizer lies beside its weights"


def _padding(
    submodels: Mapping[str, SourceModel],
    tokenizers: Mapping[str, TokenizerFiles],
    tokens: Mapping[str, int],
) -> Iterator[str]:
    own = non_negative_int(submodels["encoder"].config.raw.get("pad_token_id"))
    own = tokenizers["encoder"].special("pad") if own is None else own
    if own is not None and own != tokens["pad"]:
        yield (
            f"the encoder pads with token {own}, the decoder with {tokens['pad']}: always give "
            "attention_mask with padded inputs, it cannot be told from pad_token_id"
        )

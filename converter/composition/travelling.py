"""What travels along from the sources: the files of tokenizers and of processors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from converter.composition.source import Source

TOKENIZERS = ("encoder", "decoder", "both", "none")
"""Whose tokenizer an output can have."""

DECODER_TOKENIZER = "decoder_tokenizer"
"""The directory in an output that holds the decoder's tokenizer where it is not the encoder's."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "source.spm",
    "target.spm",
    "dict.txt",
    "bpe.codes",
    "emoji.txt",
)
"""The files that transformers' tokenizers are saved in."""

PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "feature_extractor_config.json",
    "video_preprocessor_config.json",
)
"""The files that say how images or sound become the encoder's input."""

_ORIGINALLY = {
    "vocab.json": "encoder.json",
    "merges.txt": "vocab.bpe",
    "spiece.model": "30k-clean.model",
}
"""Name of a tokenizer file → what original releases call it."""


def tokenizer_files(directory: Path, below: str = "") -> dict[str, Path]:
    """The tokenizer files in `directory`: target path below `below` → source path."""
    return {
        f"{below}{name}": directory / stored
        for name in TOKENIZER_FILES
        for stored in (_ORIGINALLY.get(name, name), name)  # transformers' own name wins
        if (directory / stored).is_file()
    }


def processor_files(directory: Path) -> dict[str, Path]:
    """The files of image processors and feature extractors in `directory`: name → path."""
    return {name: directory / name for name in PROCESSOR_FILES if (directory / name).is_file()}


def travelling(sources: Mapping[str, Source], tokenizer: str) -> dict[str, Path]:
    """The files that a composition copies: the encoder's processors, and the tokenizers.

    Args:
        sources: half → its source.
        tokenizer: one of `TOKENIZERS`.

    Returns:
        Path in the output → source path.
    """
    processors = processor_files(sources["encoder"].checkpoint.directory)
    return {**processors, **_tokenizers(sources, tokenizer)}


def _tokenizers(sources: Mapping[str, Source], wanted: str) -> dict[str, Path]:
    """The tokenizer files to copy. An encoder of images or sound has none: what lies beside it
    was for the head that it had."""
    places = {half: source.checkpoint.directory for half, source in sources.items()}
    found = {name: tokenizer_files(directory) for name, directory in places.items()}
    if sources["encoder"].config.measure("vocabulary") is None:
        found["encoder"] = {}
    if wanted in found:
        return found[wanted]
    if wanted == "none":
        return {}
    if not found["encoder"]:
        return found["decoder"]
    if not found["decoder"] or _same_files(found["encoder"], found["decoder"]):
        return found["encoder"]
    return {**found["encoder"], **tokenizer_files(places["decoder"], f"{DECODER_TOKENIZER}/")}


def _same_files(first: Mapping[str, Path], second: Mapping[str, Path]) -> bool:
    """Whether two sets of files have the same names and contents."""
    return first.keys() == second.keys() and all(
        path.read_bytes() == second[name].read_bytes() for name, path in first.items()
    )

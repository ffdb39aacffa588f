"""What travels along from the sources: the files of tokenizers and of processors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from converter.composition.source import Source
from converter.composition.tokenizer import Tokenizer
from converter.errors import ConverterError
from converter.jsonfile import read_json_object, to_json

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
    "spm.model",
    "tokenizer.model",
    "prophetnet.tokenizer",
    "source.spm",
    "target.spm",
    "target_vocab.json",
    "dict.txt",
    "bpe.codes",
    "emoji.txt",
    "entity_vocab.json",
    "word_shape.json",
    "word_pronunciation.json",
)
"""The files that transformers' tokenizers are saved in."""

_CONFIG = "tokenizer_config.json"
_CLASS = "tokenizer_class"

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


def both_tokenizers(directory: Path) -> dict[str, Path]:
    """The tokenizer files of a combined checkpoint, the decoder's own included: name → path."""
    lead = f"{DECODER_TOKENIZER}/"
    return {**tokenizer_files(directory), **tokenizer_files(directory / DECODER_TOKENIZER, lead)}


def processor_files(directory: Path) -> dict[str, Path]:
    """The files of image processors and feature extractors in `directory`: name → path."""
    return {name: directory / name for name in PROCESSOR_FILES if (directory / name).is_file()}


@dataclass(frozen=True)
class Travelling:
    """The files of the sources that go into an output."""

    copied: Mapping[str, Path]
    """Path in the output → the file that is copied there."""
    documents: Mapping[str, bytes]
    """Path in the output → what is written there instead of a copy."""


def travelling(sources: Mapping[str, Source], tokenizer: str) -> Travelling:
    """The files that a composition takes along: the encoder's processors, and the tokenizers.

    AutoTokenizer takes the class from ``tokenizer_config.json``, or else from the configuration
    beside it, which in a composition is another one or none: so the class is written where the
    tokenizer's own files leave it to the source's configuration or to its family.

    Args:
        sources: half → its source.
        tokenizer: one of `TOKENIZERS`.
    """
    copied = dict(processor_files(sources["encoder"].checkpoint.directory))
    documents = {}
    for below, half in _placed(sources, tokenizer).items():
        source = sources[half]
        copied |= tokenizer_files(source.checkpoint.directory, below)
        stated = _with_class(source)
        if stated is not None:
            copied.pop(below + _CONFIG, None)
            documents[below + _CONFIG] = stated
    return Travelling(copied, documents)


def _placed(sources: Mapping[str, Source], wanted: str) -> dict[str, str]:
    """Directory in the output → the half whose tokenizer goes there. An encoder of images or sound
    has none: what lies beside it was for the head that it had."""
    found = {half: tokenizer_files(each.checkpoint.directory) for half, each in sources.items()}
    if sources["encoder"].config.measure("vocabulary") is None:
        found["encoder"] = {}
    there = [half for half, files in found.items() if files]
    if wanted == "none" or not there:
        return {}
    if wanted != "both":
        return {"": wanted} if wanted in there else {}
    if len(there) == 2 and not _same(sources, found):
        return {"": "encoder", f"{DECODER_TOKENIZER}/": "decoder"}
    return {"": there[0]}


def _same(sources: Mapping[str, Source], found: Mapping[str, Mapping[str, Path]]) -> bool:
    """Whether both halves have one tokenizer: files of the same names and contents and class."""
    first, second = found.values()
    return (
        len({_class_of(source) for source in sources.values()}) == 1
        and first.keys() == second.keys()
        and all(path.read_bytes() == second[name].read_bytes() for name, path in first.items())
    )


def _class_of(source: Source) -> str | None:
    """The class that transformers loads the tokenizer beside a source with, as far as is known."""
    own = Tokenizer(source.checkpoint.directory).class_name
    stated = source.config.raw.get(_CLASS)
    return own or (stated if isinstance(stated, str) else None) or source.family.tokenizer


def _with_class(source: Source) -> bytes | None:
    """The tokenizer's configuration with its class; ``None`` if it states one, or none is known."""
    path = source.checkpoint.directory / _CONFIG
    try:
        own = read_json_object(path) if path.is_file() else {}
    except ConverterError:
        return None  # a damaged one is only copied
    known = _class_of(source)
    return None if _CLASS in own or known is None else to_json({**own, _CLASS: known})

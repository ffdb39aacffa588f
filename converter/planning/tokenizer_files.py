"""What the files of a tokenizer say, without any library of tokenizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converter.errors import CheckpointError, ConfigError, ConverterError
from converter.file_names import SPECIAL_TOKENS_MAP, TOKENIZER, TOKENIZER_CONFIG
from converter.models.source_model import SourceModel
from converter.safe_json import read_json_object, to_json

_MAX_VOCABULARY_BYTES = 64 << 20


@dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer whose files lie in a directory, if any do."""

    directory: Path
    _read: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def special(self, role: str) -> int | None:
        """The id of the token that the tokenizer uses as `role` (``cls``, ``eos`` …)."""
        text = self.text_of(role)
        return None if text is None else self.id_of(text)

    def text_of(self, role: str) -> str | None:
        """The text of the token that the tokenizer uses as `role`."""
        for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP):
            token = self._json(name).get(f"{role}_token")
            if isinstance(token, dict):
                token = token.get("content")
            if isinstance(token, str):
                return token
        return None

    @property
    def class_name(self) -> str | None:
        """The class that it says it is of."""
        name = self._json(TOKENIZER_CONFIG).get("tokenizer_class")
        return name if isinstance(name, str) else None

    @property
    def language(self) -> str | None:
        """The language that it says is written."""
        name = self._json(TOKENIZER_CONFIG).get("tgt_lang")
        return name if isinstance(name, str) else None

    def id_of(self, token: str) -> int | None:
        """The id of a token by its text, or ``None`` if no file knows it."""
        for text, number in self._added():
            if text == token:
                return number
        for vocabulary in self._vocabularies():
            if isinstance(vocabulary, dict):
                if non_negative_int(vocabulary.get(token)) is not None:
                    return non_negative_int(vocabulary[token])
            elif token in vocabulary:
                return int(vocabulary.index(token))
        return None

    @property
    def size(self) -> int | None:
        """How many embeddings the tokenizer asks for: its largest id and one; ``None`` if no file
        tells (a vocabulary of sentencepieces alone).
        """
        largest = -1
        whole = False
        for vocabulary in self._vocabularies():
            whole = True
            if isinstance(vocabulary, dict):
                known = [n for n in map(non_negative_int, vocabulary.values()) if n is not None]
                largest = max([largest, *known])
            else:
                largest = max(largest, len(vocabulary) - 1)
        largest = max([largest, *(number for _, number in self._added())])
        return largest + 1 if whole and largest >= 0 else None

    @property
    def lowercases(self) -> bool | None:
        """Whether it makes its input lower case; ``None`` if no file tells."""
        lowers = self._json(TOKENIZER_CONFIG).get("do_lower_case")
        if isinstance(lowers, bool):
            return lowers
        normalizer = self._json(TOKENIZER).get("normalizer")
        entries = (
            normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else ()
        )
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and (
                entry.get("type") == "Lowercase" or entry.get("lowercase") is True
            ):
                return True
        return False if self._json(TOKENIZER) else None

    def _added(self) -> Iterator[tuple[str, int]]:
        added = self._json(TOKENIZER_CONFIG).get("added_tokens_decoder")
        for number, entry in added.items() if isinstance(added, dict) else ():
            known = isinstance(entry, dict) and isinstance(entry.get("content"), str)
            if known and number.isdigit() and len(number) < 10:
                yield entry["content"], int(number)
        listed = self._json(TOKENIZER).get("added_tokens")
        for entry in listed if isinstance(listed, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("content"), str):
                number = non_negative_int(entry.get("id"))
                if number is not None:
                    yield entry["content"], number
        for text, value in self._json("added_tokens.json").items():
            number = non_negative_int(value)
            if number is not None:
                yield text, number

    def _vocabularies(self) -> Iterator[dict[str, Any] | list[Any]]:
        model = self._json(TOKENIZER).get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocabulary, dict):
            yield vocabulary
        elif isinstance(vocabulary, list):  # Unigram: pieces with their scores
            yield [entry[0] if isinstance(entry, list) and entry else None for entry in vocabulary]
        for name in ("vocab.json", "encoder.json"):  # the latter is GPT-2's own name for it
            if self._json(name):
                yield dict(self._json(name))
        lines = self._lines()
        if lines:
            yield lines

    def _json(self, name: str) -> Mapping[str, Any]:
        if name not in self._read:
            path = self.directory / name
            try:
                self._read[name] = read_json_object(path) if path.is_file() else {}
            except (CheckpointError, ConfigError):
                self._read[name] = {}  # a damaged tokenizer says nothing; it is only copied
        found: Mapping[str, Any] = self._read[name]
        return found

    def _lines(self) -> list[str]:
        if "vocab.txt" not in self._read:
            path = self.directory / "vocab.txt"
            try:
                small = path.stat().st_size <= _MAX_VOCABULARY_BYTES
                text = path.read_text("utf-8", "replace") if small else ""
            except OSError:
                text = ""
            self._read["vocab.txt"] = text.removesuffix("\n").split("\n") if text else []
        lines: list[str] = self._read["vocab.txt"]
        return lines


def non_negative_int(value: Any) -> int | None:
    """A whole number that is no boolean and not below zero, or ``None``."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and value >= 0 else None


DECODER_TOKENIZER = "decoder_tokenizer"
"""The directory in an output that holds the decoder's tokenizer where it is not the encoder's."""

TOKENIZER_FILES = (
    TOKENIZER,
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS_MAP,
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


def all_tokenizer_files(directory: Path) -> dict[str, Path]:
    """The tokenizer files of a combined checkpoint, the decoder's own included: name → path."""
    lead = f"{DECODER_TOKENIZER}/"
    return {**tokenizer_files(directory), **tokenizer_files(directory / DECODER_TOKENIZER, lead)}


def processor_files(directory: Path) -> dict[str, Path]:
    """The files of image processors and feature extractors in `directory`: name → path."""
    return {name: directory / name for name in PROCESSOR_FILES if (directory / name).is_file()}


@dataclass(frozen=True)
class AuxiliaryFiles:
    """The files of the sources that go into an output."""

    copied: Mapping[str, Path]
    """Path in the output → the file that is copied there."""
    documents: Mapping[str, bytes]
    """Path in the output → what is written there instead of a copy."""


def collect_auxiliary_files(sources: Mapping[str, SourceModel], tokenizer: str) -> AuxiliaryFiles:
    """The files that a composition takes along: the encoder's processors, and the tokenizers.

    AutoTokenizer takes the class from ``tokenizer_config.json``, or else from the configuration
    beside it, which in a composition is another one or none: so the class is written where the
    tokenizer's own files leave it to the source's configuration or to its family.

    Args:
        sources: half → its source.
        tokenizer: whose files to copy.

    """
    copied = dict(processor_files(sources["encoder"].checkpoint.directory))
    documents = {}
    for below, submodel in _placed(sources, tokenizer).items():
        source = sources[submodel]
        copied |= tokenizer_files(source.checkpoint.directory, below)
        stated = _with_class(source)
        if stated is not None:
            copied.pop(below + TOKENIZER_CONFIG, None)
            documents[below + TOKENIZER_CONFIG] = stated
    return AuxiliaryFiles(copied, documents)


def _placed(sources: Mapping[str, SourceModel], wanted: str) -> dict[str, str]:
    """Directory in the output → the half whose tokenizer goes there. An encoder of images or sound
    has none: what lies beside it was for the head that it had.
    """
    found = {
        submodel: tokenizer_files(each.checkpoint.directory) for submodel, each in sources.items()
    }
    if sources["encoder"].config.attribute("vocabulary") is None:
        found["encoder"] = {}
    there = [submodel for submodel, files in found.items() if files]
    if wanted == "none" or not there:
        return {}
    if wanted != "both":
        return {"": wanted} if wanted in there else {}
    if len(there) == 2 and not _same(sources, found):
        return {"": "encoder", f"{DECODER_TOKENIZER}/": "decoder"}
    return {"": there[0]}


def _same(sources: Mapping[str, SourceModel], found: Mapping[str, Mapping[str, Path]]) -> bool:
    """Whether both halves have one tokenizer: files of the same names and contents and class."""
    first, second = found.values()
    return (
        len({_class_of(source) for source in sources.values()}) == 1
        and first.keys() == second.keys()
        and all(path.read_bytes() == second[name].read_bytes() for name, path in first.items())
    )


def _class_of(source: SourceModel) -> str | None:
    """The class that transformers loads the tokenizer beside a source with, as far as is known."""
    own = TokenizerFiles(source.checkpoint.directory).class_name
    stated = source.config.raw.get(_CLASS)
    return own or (stated if isinstance(stated, str) else None) or source.architecture.tokenizer


def _with_class(source: SourceModel) -> bytes | None:
    """The tokenizer's configuration with its class; ``None`` if it states one, or none is known."""
    path = source.checkpoint.directory / TOKENIZER_CONFIG
    try:
        own = read_json_object(path) if path.is_file() else {}
    except ConverterError:
        return None  # a damaged one is only copied
    known = _class_of(source)
    return None if _CLASS in own or known is None else to_json({**own, _CLASS: known})

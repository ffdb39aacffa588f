"""Tokenizer files: what they state, read without any tokenizer library, and which are copied."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from filecmp import cmp
from pathlib import Path
from typing import Any

from converter.errors import CheckpointError, ConfigError, ConverterError
from converter.file_names import CONFIG, SPECIAL_TOKENS_MAP, TOKENIZER, TOKENIZER_CONFIG
from converter.formats.file_handle import sanitize
from converter.models.source_model import SourceModel
from converter.safe_json import (
    check_fetched,
    file_to_copy,
    json_reader,
    read_json_object,
    read_small_file,
    to_json,
)

_MAX_BYTES = 64 << 20
_MAX_MEMORY = 256 << 20
"""More than the 256,000 tokens and 580,000 merges of Gemma's ``tokenizer.json`` take."""


@dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer files in a directory, if there are any."""

    directory: Path
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def special(self, role: str) -> int | None:
        """Return the id of the token that the tokenizer uses as `role` (``cls``, ``eos`` …)."""
        text = self.text_of(role)
        return None if text is None else self.id_of(text)

    def text_of(self, role: str) -> str | None:
        """Return the text of the token that the tokenizer uses as `role`."""
        for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP):
            token = self._json(name).get(f"{role}_token")
            if isinstance(token, dict):
                token = token.get("content")
            if isinstance(token, str):
                return token
        return None

    def setting(self, key: str) -> str | None:
        """Return a text in its configuration, such as the ``tokenizer_class``."""
        text = self._json(TOKENIZER_CONFIG).get(key)
        return text if isinstance(text, str) else None

    def id_of(self, token: str) -> int | None:
        """Return the id of a token by its text, ``None`` if it is in no file."""
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
        """The number of embeddings that the tokenizer needs: its largest id plus one.

        ``None`` if no file states it (a SentencePiece model alone).
        """
        largest = -1
        has_vocabulary = False
        for vocabulary in self._vocabularies():
            has_vocabulary = True
            if isinstance(vocabulary, dict):
                ids = [n for n in map(non_negative_int, vocabulary.values()) if n is not None]
                largest = max([largest, *ids])
            else:
                largest = max(largest, len(vocabulary) - 1)
        largest = max([largest, *(number for _, number in self._added())])
        return largest + 1 if has_vocabulary and largest >= 0 else None

    @property
    def lowercases(self) -> bool | None:
        """Whether it converts its input to lower case; ``None`` if no file states it."""
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
            is_token = isinstance(entry, dict) and isinstance(entry.get("content"), str)
            if is_token and number.isdecimal() and len(number) < 10:
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
        if name not in self._cache:
            path = self.directory / name
            if path.is_file():
                check_fetched(path)
            try:
                self._cache[name] = (
                    read_json_object(path, _MAX_BYTES, _MAX_MEMORY) if path.is_file() else {}
                )
            except (CheckpointError, ConfigError):
                self._cache[name] = {}  # a damaged file is only copied
        content: Mapping[str, Any] = self._cache[name]
        return content

    def _lines(self) -> list[str]:
        if "vocab.txt" not in self._cache:
            path, text = self.directory / "vocab.txt", ""
            if path.is_file():
                check_fetched(path)
                with suppress(CheckpointError):
                    text = read_small_file(path).decode("utf-8", "replace")
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            self._cache["vocab.txt"] = text.removesuffix("\n").split("\n") if text else []
        lines: list[str] = self._cache["vocab.txt"]
        return lines


def non_negative_int(value: Any) -> int | None:
    """Return `value` if it is an integer, not a boolean, and not negative, or else ``None``."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return value if is_integer and value >= 0 else None


DECODER_TOKENIZER = "decoder_tokenizer"
"""Directory in an output with the decoder's tokenizer, if it differs from the encoder's."""

TOKENIZER_SETTINGS = (
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS_MAP,
    "added_tokens.json",
    "chat_template.jinja",
)
"""The files of a tokenizer that have no vocabulary."""

TOKENIZER_FILES = (
    TOKENIZER,
    *TOKENIZER_SETTINGS,
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "normalizer.json",
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
"""The files that the tokenizers of transformers consist of."""

_CLASS = "tokenizer_class"

PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "feature_extractor_config.json",
    "video_preprocessor_config.json",
)
"""The files that define how images or audio become the encoder's input."""

_TEMPLATES = "additional_chat_templates"
"""Directory of the chat templates of a tokenizer with several."""
_MAX_TEMPLATES = 100

_LICENSE_FILES = tuple(
    f"{name}{suffix}"
    for name in ("LICENSE", "NOTICE", "USE_POLICY")
    for suffix in ("", ".txt", ".md")
)

_ORIGINAL_NAMES = {
    "vocab.json": "encoder.json",
    "merges.txt": "vocab.bpe",
    "spiece.model": "30k-clean.model",
}
"""Name of a tokenizer file → its name in original releases."""


def tokenizer_files(directory: Path, below: str = "", inner: str = "") -> dict[str, Path]:
    """Return the tokenizer files of the checkpoint in `directory`: target path → source path.

    The target paths begin with `below`; in the checkpoint the files are in its `inner` directory.
    """
    templates = sorted((directory / inner / _TEMPLATES).glob("*.jinja"))[:_MAX_TEMPLATES]
    names = [f"{_TEMPLATES}/{path.name}" for path in templates]
    return {
        f"{below}{name}": path
        for name in (*TOKENIZER_FILES, *names)
        for stored in (_ORIGINAL_NAMES.get(name, name), name)  # transformers' own name wins
        if (path := file_to_copy(directory, f"{inner}{stored}"))
    }


def all_tokenizer_files(directory: Path, submodels: Iterable[str] = ()) -> dict[str, Path]:
    """Return the tokenizer files of a checkpoint, with those of its submodels: name → path."""
    prefixes = {DECODER_TOKENIZER: None, **{f"{each}_tokenizer": None for each in submodels}}
    files = tokenizer_files(directory)
    for name in prefixes:
        files |= tokenizer_files(directory, f"{name}/", f"{name}/")
    return files


def processor_files(directory: Path) -> dict[str, Path]:
    """Return the files of image processors and feature extractors in `directory`: name → path."""
    return _present(directory, PROCESSOR_FILES)


def license_files(directory: Path) -> dict[str, Path]:
    """Return the files with the terms of a checkpoint, which every copy must have: name → path."""
    return _present(directory, _LICENSE_FILES)


def _present(directory: Path, names: Iterable[str]) -> dict[str, Path]:
    paths = {name: file_to_copy(directory, name) for name in names}
    return {name: path for name, path in paths.items() if path}


_MODULES = "modules.json"
_PROMPTS = "config_sentence_transformers.json"
_SEQUENCE_LENGTHS = "sentence_*_config.json"
_MODULE = re.compile(r"[A-Za-z0-9_-]{1,100}")
_WITHOUT_WEIGHTS = ("Pooling", "Normalize")
"""The modules of SentenceTransformers that consist of at most a ``config.json``."""


def sentence_transformer_files(directory: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the files of the SentenceTransformer in `directory`, by name, and warnings.

    Those are the files besides its encoder, which is in `directory` itself. There are none if a
    module has weights of its own, such as ``2_Dense``: a warning names it.
    """
    modules = json_reader(directory)(_MODULES)
    if not isinstance(modules, list):
        return {}, []
    copied, others = dict[str, Path](), list[str]()
    for module in modules:
        entry = module if isinstance(module, dict) else {}
        path, kind = str(entry.get("path")), str(entry.get("type")).rpartition(".")[2]
        config = None
        if kind in _WITHOUT_WEIGHTS and _MODULE.fullmatch(path):
            config = file_to_copy(directory, f"{path}/{CONFIG}")
        if config:
            copied[f"{path}/{CONFIG}"] = config
        elif (kind, path) != ("Transformer", "") and kind != "Normalize":
            others.append(sanitize(path or kind))
    if others:
        return {}, [
            f"the modules of the SentenceTransformer are not copied, since {', '.join(others[:5])} "
            f"cannot be: the output is its encoder alone; copy {_MODULES} and them yourself"
        ]
    lengths = (path.name for path in sorted(directory.glob(_SEQUENCE_LENGTHS)))
    return {**copied, **_present(directory, (_MODULES, _PROMPTS, *lengths))}, []


@dataclass(frozen=True)
class AuxiliaryFiles:
    """The files of the sources that go into an output."""

    copied: Mapping[str, Path]
    """Path in the output → the file that is copied there."""
    documents: Mapping[str, bytes]
    """Path in the output → content that is written there instead of a copy."""
    warnings: Sequence[str] = ()
    """Which tokenizer is missing."""


def collect_auxiliary_files(
    sources: Mapping[str, SourceModel], tokenizer: str, *, one: bool = False
) -> AuxiliaryFiles:
    """Return the files that a composition copies: the encoder's processors, and the tokenizers.

    AutoTokenizer takes the class from ``tokenizer_config.json``, or else from the configuration
    next to it, which in a composition differs or is missing. So the class is written where the
    tokenizer's own files leave it to the source's configuration or to its architecture. A model
    with `one` vocabulary has one tokenizer.
    """
    first, *_ = sources.values()
    copied = dict(processor_files(first.checkpoint.directory))
    documents = {}
    directories, warnings = _tokenizer_directories(sources, tokenizer, one)
    for below, submodel in directories.items():
        source = sources[submodel]
        copied |= tokenizer_files(source.checkpoint.directory, below)
        stated = _with_class(source)
        if stated is not None:
            copied.pop(below + TOKENIZER_CONFIG, None)
            documents[below + TOKENIZER_CONFIG] = stated
    return AuxiliaryFiles(copied, documents, warnings)


def _tokenizer_directories(
    sources: Mapping[str, SourceModel], choice: str, one: bool
) -> tuple[dict[str, str], list[str]]:
    """Return each directory in the output → the submodel whose tokenizer goes there, and warnings.

    An encoder of images or audio has none: tokenizer files next to it were for its former head.
    The only tokenizer of two is not in the output itself, where AutoTokenizer takes it for both.
    """
    files = {
        submodel: tokenizer_files(each.checkpoint.directory)
        for submodel, each in sources.items()
        if each.config.attribute("vocabulary") is not None
    }
    present = [submodel for submodel, names in files.items() if names]
    missing = [submodel for submodel in files if submodel not in present]
    if choice == "none" or not present:
        return {}, []
    if choice != "both":
        warning = f"{choice}: no tokenizer files found next to its weights; none are copied"
        return ({"": choice}, []) if choice in present else ({}, [warning])
    if missing and not one:
        [other], [absent] = present, missing
        return {f"{other}_tokenizer/": other}, [
            f"{absent}: no tokenizer files found next to its weights; the {other}'s are copied to "
            f"{other}_tokenizer/: save the {absent}'s in {absent}_tokenizer/, or add "
            f"--tokenizer {other} if both use the same"
        ]
    if len(present) == 2 and not _is_same(sources, files):
        return {"": "encoder", f"{DECODER_TOKENIZER}/": "decoder"}, []
    return {"": present[0]}, []


def _is_same(sources: Mapping[str, SourceModel], files: Mapping[str, Mapping[str, Path]]) -> bool:
    """Return whether both tokenizers have the same class, and files of the same content."""
    first, second = files.values()
    return (
        len({_class_of(source) for source in sources.values()}) == 1
        and first.keys() == second.keys()
        and all(cmp(path, second[name], shallow=False) for name, path in first.items())
    )


def _class_of(source: SourceModel) -> str | None:
    """Return the class that transformers loads the tokenizer of a source with, if it is known."""
    own = TokenizerFiles(source.checkpoint.directory).setting(_CLASS)
    stated = source.config.raw.get(_CLASS)
    return own or (stated if isinstance(stated, str) else None) or source.architecture.tokenizer


def _with_class(source: SourceModel) -> bytes | None:
    """Return the tokenizer's config with its class, ``None`` if it has it or it is unknown."""
    path = source.checkpoint.directory / TOKENIZER_CONFIG
    try:
        own = read_json_object(path) if path.is_file() else {}
    except ConverterError:
        return None  # a damaged one is only copied
    class_name = _class_of(source)
    return None if _CLASS in own or class_name is None else to_json({**own, _CLASS: class_name})

"""What the files of a tokenizer say, without any library of tokenizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converter.errors import CheckpointError, ConfigError
from converter.jsonfile import read_json_object

_MAX_VOCABULARY_BYTES = 64 << 20


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer whose files lie in a directory, if any do."""

    directory: Path
    _read: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def special(self, role: str) -> int | None:
        """The id of the token that the tokenizer uses as `role` (``cls``, ``eos`` …)."""
        text = self.text_of(role)
        return None if text is None else self.id_of(text)

    def text_of(self, role: str) -> str | None:
        """The text of the token that the tokenizer uses as `role`."""
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            token = self._json(name).get(f"{role}_token")
            if isinstance(token, dict):
                token = token.get("content")
            if isinstance(token, str):
                return token
        return None

    @property
    def class_name(self) -> str | None:
        """The class that it says it is of."""
        name = self._json("tokenizer_config.json").get("tokenizer_class")
        return name if isinstance(name, str) else None

    @property
    def language(self) -> str | None:
        """The language that it says is written."""
        name = self._json("tokenizer_config.json").get("tgt_lang")
        return name if isinstance(name, str) else None

    def id_of(self, token: str) -> int | None:
        """The id of a token by its text, or ``None`` if no file knows it."""
        for text, number in self._added():
            if text == token:
                return number
        for vocabulary in self._vocabularies():
            if isinstance(vocabulary, dict):
                if plain(vocabulary.get(token)) is not None:
                    return plain(vocabulary[token])
            elif token in vocabulary:
                return int(vocabulary.index(token))
        return None

    @property
    def size(self) -> int | None:
        """How many embeddings the tokenizer asks for: its largest id and one; ``None`` if no file
        tells (a vocabulary of sentencepieces alone)."""
        largest = -1
        whole = False
        for vocabulary in self._vocabularies():
            whole = True
            if isinstance(vocabulary, dict):
                known = [n for n in map(plain, vocabulary.values()) if n is not None]
                largest = max([largest, *known])
            else:
                largest = max(largest, len(vocabulary) - 1)
        largest = max([largest, *(number for _, number in self._added())])
        return largest + 1 if whole and largest >= 0 else None

    @property
    def lowers(self) -> bool | None:
        """Whether it makes its input lower case; ``None`` if no file tells."""
        lowers = self._json("tokenizer_config.json").get("do_lower_case")
        if isinstance(lowers, bool):
            return lowers
        normalizer = self._json("tokenizer.json").get("normalizer")
        entries = (
            normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else ()
        )
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and (
                entry.get("type") == "Lowercase" or entry.get("lowercase") is True
            ):
                return True
        return False if self._json("tokenizer.json") else None

    def _added(self) -> Iterator[tuple[str, int]]:
        added = self._json("tokenizer_config.json").get("added_tokens_decoder")
        for number, entry in added.items() if isinstance(added, dict) else ():
            known = isinstance(entry, dict) and isinstance(entry.get("content"), str)
            if known and number.isdigit() and len(number) < 10:
                yield entry["content"], int(number)
        listed = self._json("tokenizer.json").get("added_tokens")
        for entry in listed if isinstance(listed, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("content"), str):
                number = plain(entry.get("id"))
                if number is not None:
                    yield entry["content"], number
        for text, value in self._json("added_tokens.json").items():
            number = plain(value)
            if number is not None:
                yield text, number

    def _vocabularies(self) -> Iterator[dict[str, Any] | list[Any]]:
        model = self._json("tokenizer.json").get("model")
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


def plain(value: Any) -> int | None:
    """A whole number that is no boolean and not below zero, or ``None``."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and value >= 0 else None

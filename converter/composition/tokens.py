"""Special tokens: where generation begins, ends and pads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.errors import CheckpointError, ConfigError, Problem
from converter.jsonfile import read_json_object
from converter.tables.config import FamilyConfig

ROLES = ("start", "end", "pad")
"""The tokens that a decoder cannot do without; tables name the same."""

_FIELDS = {
    "start": ("decoder_start_token_id",),
    "end": ("eos_token_id",),
    "pad": ("pad_token_id",),
}
_MAX_VOCABULARY_BYTES = 64 << 20


@dataclass(frozen=True)
class Tokenizer:
    """What the files of a tokenizer say of single tokens."""

    directory: Path

    def special(self, role: str) -> int | None:
        """The id of the token that the tokenizer uses as `role` (``cls``, ``eos`` …)."""
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            token = self._json(name).get(f"{role}_token")
            if isinstance(token, dict):
                token = token.get("content")
            if isinstance(token, str):
                return self.id_of(token)
        return None

    def id_of(self, token: str) -> int | None:
        """The id of a token by its text, or ``None`` if no file knows it."""
        added = self._json("tokenizer_config.json").get("added_tokens_decoder")
        if isinstance(added, dict):
            for number, entry in added.items():
                if isinstance(entry, dict) and entry.get("content") == token and number.isdigit():
                    return int(number)
        whole = self._json("tokenizer.json")
        for entry in whole.get("added_tokens") or ():
            if isinstance(entry, dict) and entry.get("content") == token:
                return _plain(entry.get("id"))
        model = whole.get("model")
        for vocabulary in (
            self._json("added_tokens.json"),
            model.get("vocab") if isinstance(model, dict) else None,
            self._json("vocab.json"),
            self._json("encoder.json"),  # GPT-2's own name for it
        ):
            if isinstance(vocabulary, dict) and _plain(vocabulary.get(token)) is not None:
                return _plain(vocabulary[token])
        return self._line(token)

    def _json(self, name: str) -> Mapping[str, Any]:
        path = self.directory / name
        if not path.is_file():
            return {}
        try:
            return read_json_object(path)
        except (CheckpointError, ConfigError):
            return {}  # a damaged tokenizer says nothing; its files are only copied

    def _line(self, token: str) -> int | None:
        path = self.directory / "vocab.txt"
        try:
            if path.stat().st_size > _MAX_VOCABULARY_BYTES:
                return None
            lines = path.read_text("utf-8", "replace").splitlines()
        except OSError:
            return None
        return lines.index(token) if token in lines else None


def _plain(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def resolve_tokens(
    config: FamilyConfig, directory: Path, asked: Mapping[str, str | int | None]
) -> dict[str, int]:
    """The ids of a decoder's start, end and pad token.

    In this order: what the user asked for, what the configuration says, what the tokenizer's files
    say, the family's own vocabulary if the model's is large enough to be it.

    Args:
        config: of the decoder.
        directory: where the decoder's tokenizer files lie, if it has any.
        asked: role → id or text of a token.

    Raises:
        ConfigError: if a token cannot be told, or its id is outside the vocabulary.
    """
    tokenizer = Tokenizer(directory)
    vocabulary = config.measure("vocabulary")
    options = {"start": "--decoder-start-token", "end": "--eos-token", "pad": "--pad-token"}
    found: dict[str, int] = {}
    problems = []
    for role in ROLES:
        wanted = asked.get(role)
        number = _asked(wanted, tokenizer) if wanted is not None else _told(role, config, tokenizer)
        if number is None:
            problems.append(
                Problem(
                    f"cannot tell the {role} token"
                    + (f" from {wanted!r}" if wanted is not None else ""),
                    file=config.file,
                    remedy=f"give its id: {options[role]} ID",
                )
            )
        elif not isinstance(vocabulary, int) or not 0 <= number < vocabulary:
            problems.append(
                Problem(
                    f"the {role} token lies outside the vocabulary",
                    file=config.file,
                    expected=f"an id below {vocabulary}",
                    found=str(number),
                    remedy=f"give another: {options[role]} ID",
                )
            )
        else:
            found[role] = number
    if problems:
        raise ConfigError("the decoder's special tokens are not known", problems)
    return found


def _asked(wanted: str | int, tokenizer: Tokenizer) -> int | None:
    text = str(wanted)
    return int(text) if text.isdigit() else tokenizer.id_of(text)


def _told(role: str, config: FamilyConfig, tokenizer: Tokenizer) -> int | None:
    entry = config.family.tokens.get(role)
    own = (f"{entry.token}_token_id",) if entry else ()
    for field in (*_FIELDS[role], *own):
        value = config.raw.get(field)
        if isinstance(value, list) and value:
            value = value[0]  # several tokens may end a text; one is enough to begin training
        number = _plain(value)
        if number is not None:
            return number
    if entry is None:
        return None
    known = tokenizer.special(entry.token)
    if known is not None:
        return known
    vocabulary = config.measure("vocabulary")
    return entry.id if isinstance(vocabulary, int) and entry.id < vocabulary else None

"""Special tokens of the decoder: the ids that generation starts with, ends with and pads with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.architectures.model_config import ModelConfig
from converter.errors import ConfigError, Problem
from converter.planning.configs import FORCED, TOKEN_FIELDS, GenerationSettings
from converter.planning.tokenizer_files import TokenizerFiles, non_negative_int

ROLES = ("start", "end", "pad")
"""The tokens that every decoder needs; mapping tables use the same names."""

_OPTIONS = {"start": "--decoder-start-token", "end": "--eos-token", "pad": "--pad-token"}

_NAMES: Mapping[str, tuple[str, ...]] = {"start": (), "end": ("eos",), "pad": ("pad",)}
"""Role → the names of its token in configurations and tokenizers, before the architecture's own."""

_DEFAULT = "the architecture's vocabulary"
_MAX_CHOICES = 6


@dataclass(frozen=True)
class TargetLanguages:
    """The languages that a decoder can write."""

    ids: Mapping[str, int]
    """Language code → token id, of the codes in the vocabulary."""
    follows: bool
    """Whether the code follows a start token, or else is the start token."""
    target: int | None = None
    """The id of the target language's code, if a file states it."""

    @property
    def starts(self) -> bool:
        """Whether generation starts with a code."""
        return bool(self.ids) and not self.follows


def target_languages(config: ModelConfig, tokenizer: TokenizerFiles) -> TargetLanguages:
    """Return a decoder's languages by its tokenizer, or by its architecture's own vocabulary."""
    table = config.architecture.languages
    if table is None:
        return TargetLanguages({}, follows=False)
    ids = {code: i for code in table.names if (i := tokenizer.id_of(code)) is not None}
    vocabulary = config.attribute("vocabulary")
    if not ids and tokenizer.size is None and isinstance(vocabulary, int):
        ids = table.ids(vocabulary)
    name = tokenizer.setting("tgt_lang") or ""
    target = ids.get(name, ids.get(table.format.format(name)))
    if target is None and len(ids) == 1:
        (target,) = ids.values()
    return TargetLanguages(
        ids, tokenizer.setting("tokenizer_class") in table.after_start_token, target
    )


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a decoder."""

    ids: Mapping[str, int]
    """Role → id: start, end, pad and, if it has one, bos."""
    forced: int | None = None
    """The token that every output must start with, if the tokenizer alone states it."""
    notes: tuple[str, ...] = ()

    def with_forced(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return generation settings with the forced first token."""
        return {**settings, **({} if self.forced is None else {FORCED: self.forced})}


def resolve_tokens(
    config: ModelConfig,
    directory: Path,
    requested: Mapping[str, str | int | None],
    generation: GenerationSettings,
) -> SpecialTokens:
    """Return the ids of a decoder's special tokens.

    In this order: the `requested` ones, role → id or text; those of the configuration and
    ``generation_config.json``; those of the tokenizer's files; those of the architecture's own
    vocabulary, if the model's is large enough to be it. Where files state different ids of one
    token, the user must choose, since nothing says which one the weights were trained with.
    ``decoder_start_token_id`` is not a token of the tokenizer, and only compared with
    ``generation_config.json``. Architectures that start with a language code start with that of the
    tokenizer's target language. Raise ConfigError if a token is unknown, ambiguous, or outside the
    vocabulary.
    """
    sources = _TokenSources(config, TokenizerFiles(directory), generation)
    vocabulary = config.attribute("vocabulary")
    ids: dict[str, int] = {}
    problems, defaults = [], []
    for role in ROLES:
        token = requested.get(role)
        candidates = sources.candidates(role) if token is None else sources.requested(token)
        numbers = sorted(set(candidates.values()))
        if len(numbers) == 1 and isinstance(vocabulary, int) and 0 <= numbers[0] < vocabulary:
            ids[role] = numbers[0]
            defaults += [f"{role} {numbers[0]}"] if _DEFAULT in candidates else []
        else:
            problems.append(sources.problem(role, candidates, token))
    if problems:
        raise ConfigError("the decoder's special tokens are not known", problems)
    bos = sources.bos(requested.get("bos"))
    if bos is not None and isinstance(vocabulary, int) and bos < vocabulary:
        ids["bos"] = bos
    notes = sources.notes()
    if defaults:
        notes.append(
            f"decoder: no file states its special tokens; those of {config.architecture.name}'s "
            f"own vocabulary are used: {', '.join(defaults)}"
        )
    return SpecialTokens(ids, sources.forced(), tuple(notes))


@dataclass(frozen=True)
class _TokenSources:
    """The files that state a decoder's tokens."""

    config: ModelConfig
    tokenizer: TokenizerFiles
    generation: GenerationSettings

    @property
    def languages(self) -> TargetLanguages:
        return target_languages(self.config, self.tokenizer)

    def requested(self, token: str | int) -> dict[str, int]:
        """Return the token that the user gives by its id or its text."""
        text = str(token)
        if text.isdecimal() and len(text) < 10:
            return {"option": int(text)}
        number = self.tokenizer.id_of(text)
        number = self.languages.ids.get(text) if number is None else number
        return {} if number is None else {"option": number}

    def is_language(self, role: str) -> bool:
        """Return whether the token is a language code."""
        return role == "start" and self.config.architecture.languages is not None

    def candidates(self, role: str) -> dict[str, int]:
        """Return each source → the id that it states for a role."""
        if role == "start":
            if stated := self._stated(TOKEN_FIELDS[role]):
                return stated
            if self.languages.starts:
                target = self.languages.target
                return dict(self.languages.ids) if target is None else {"the tokenizer": target}
        entry = self.config.architecture.tokens.get(role)
        names = [*_NAMES[role], *([entry.token] if entry else [])]
        for name in dict.fromkeys(reversed(names) if entry and entry.overrides_config else names):
            stated = self._stated(f"{name}_token_id")
            if (number := self.tokenizer.special(name)) is not None:
                stated["the tokenizer"] = number
            if stated:
                return stated
        vocabulary = self.config.attribute("vocabulary")
        is_unknown_language = self.is_language(role) and self.tokenizer.size is None
        is_own = isinstance(vocabulary, int) and entry is not None and entry.id < vocabulary
        return {_DEFAULT: entry.id} if entry and is_own and not is_unknown_language else {}

    def _stated(self, field: str) -> dict[str, int]:
        stated = {
            f"{field} of the configuration": _first(self.config.raw.get(field)),
            f"{field} of {self.generation.file}": _first(self.generation.tokens.get(field)),
        }
        return {source: value for source, value in stated.items() if value is not None}

    def problem(self, role: str, candidates: Mapping[str, int], token: str | int | None) -> Problem:
        """Return why the candidates for a role do not give one usable token."""
        option, file = _OPTIONS[role], self.config.file
        numbers = sorted(set(candidates.values()))
        if not numbers:
            return Problem(
                f"the {role} token is unknown" + (f": {token!r}" if token is not None else ""),
                file=file,
                expected="a language code" if self.is_language(role) else None,
                remedy=f"give its id: {option} ID",
            )
        if len(numbers) > 1:
            stated = [f"{number} by {source}" for source, number in candidates.items()]
            choices = [str(number) for number in numbers]
            if self.is_language(role):
                stated = [f"{code} ({number})" for code, number in candidates.items()]
                choices = list(candidates)
            return Problem(
                f"the {role} token is ambiguous",
                file=file,
                expected="one id",
                found=_shorten(stated, ", "),
                remedy="choose: " + _shorten([f"{option} {each}" for each in choices], " or "),
            )
        return Problem(
            f"the {role} token is outside the vocabulary",
            file=file,
            expected=f"an id below {self.config.attribute('vocabulary')}",
            found=str(numbers[0]),
            remedy=f"give another: {option} ID, or resize the embeddings to the tokenizer: "
            "--resize-embeddings",
        )

    def bos(self, token: str | int | None) -> int | None:
        """Return the token that texts begin with, if there is one."""
        if token is not None:
            return next(iter(self.requested(token).values()), None)
        stated = self._stated(TOKEN_FIELDS["bos"]).values()
        return next(iter(stated), self.tokenizer.special("bos"))

    def forced(self) -> int | None:
        """Return the token that outputs must start with, if the settings do not state it."""
        if self.languages.follows and FORCED not in self.generation.settings:
            return self.languages.target
        return None

    def notes(self) -> list[str]:
        languages = self.languages
        is_unknown = FORCED not in self.generation.settings and languages.target is None
        if languages.follows and languages.ids and is_unknown:
            return [
                "decoder: its outputs start with a language code, and no file states which: start "
                f"the labels with it, or --set {FORCED}=ID"
            ]
        return []


def _first(value: object) -> int | None:
    if isinstance(value, list) and value:
        value = value[0]  # several tokens may end a text; one is enough to begin training
    return non_negative_int(value)


def _shorten(texts: list[str], separator: str) -> str:
    """Return the first of `texts`, and how many more there are."""
    more = len(texts) - _MAX_CHOICES
    suffix = f"{separator}{more} more" if more > 0 else ""
    return separator.join(texts[:_MAX_CHOICES]) + suffix

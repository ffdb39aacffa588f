"""Special tokens: where generation begins, ends and pads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.architectures.model_config import ModelConfig
from converter.errors import ConfigError, Problem
from converter.planning.configs import FORCED, TOKEN_FIELDS, GenerationSettings
from converter.planning.tokenizer_files import TokenizerFiles, non_negative_int


@dataclass(frozen=True)
class TargetLanguages:
    """In which languages a decoder writes."""

    ids: dict[str, int]
    """Code → id, of those that it knows."""
    follows: bool
    """Whether the code follows a start token, instead of being it."""
    target: int | None = None
    """The id of the code of the language that is to be written, where something tells."""

    @property
    def starts(self) -> bool:
        """Whether a code is what generation starts with."""
        return bool(self.ids) and not self.follows


def target_languages(config: ModelConfig, tokenizer: TokenizerFiles) -> TargetLanguages:
    """What is told of the languages of a decoder: by its tokenizer, or by its family's own
    vocabulary where that is what it has; nothing if its family knows none.

    Args:
        config: of the decoder.
        tokenizer: the one beside it, if any is.

    """
    table = config.architecture.languages
    if table is None:
        return TargetLanguages({}, follows=False)
    told = {code: tokenizer.id_of(code) for code in table.names}
    ids = {code: number for code, number in told.items() if number is not None}
    vocabulary = config.attribute("vocabulary")
    if not ids and tokenizer.size is None and isinstance(vocabulary, int):
        ids = table.ids(vocabulary)
    name = tokenizer.language or ""
    target = ids.get(name, ids.get(table.format.format(name)))
    if target is None and len(ids) == 1:
        (target,) = ids.values()
    return TargetLanguages(ids, tokenizer.class_name in table.after_start_token, target)


ROLES = ("start", "end", "pad")
"""The tokens that a decoder cannot do without; tables name the same."""

_OPTIONS = {"start": "--decoder-start-token", "end": "--eos-token", "pad": "--pad-token"}

_NAMES: Mapping[str, tuple[str, ...]] = {"start": (), "end": ("eos",), "pad": ("pad",)}
"""Role → what configurations and tokenizers call its token, before the family's own name."""

_OWN = "the family's vocabulary"
_SHOWN = 6
"""How many candidates a message lists."""


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a decoder."""

    ids: Mapping[str, int]
    """Role → id: start, end, pad and, where it has one, bos."""
    forced: int | None = None
    """What generation must write first, where the tokenizer tells and the settings do not."""
    notes: tuple[str, ...] = ()
    """What the user should know."""

    def with_forced(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of generation, and what it must write first."""
        return {**settings, **({} if self.forced is None else {FORCED: self.forced})}


def resolve_tokens(
    config: ModelConfig,
    directory: Path,
    asked: Mapping[str, str | int | None],
    generation: GenerationSettings,
) -> SpecialTokens:
    """The ids of a decoder's special tokens.

    In this order: what the user asked for; what the configuration and ``generation_config.json``
    say; what the tokenizer's files say; the family's own vocabulary if the model's is large enough
    to be it. Where they state different ids of the same token, nobody can tell which of the two
    the weights were trained with, and the user must. ``decoder_start_token_id`` is no token of the
    tokenizer, and is questioned only by ``generation_config.json``. In families that begin with
    the code of a language, see `converter.planning.special_tokens`, it is that of the language that
    the tokenizer is set to write.

    Args:
        config: of the decoder.
        directory: where the decoder's tokenizer files lie, if it has any.
        asked: role → id or text of a token.
        generation: what the decoder's checkpoint says of generation.

    Raises:
        ConfigError: if a token cannot be told, is told twice, or its id is outside the vocabulary.

    """
    teller = _TokenSources(config, TokenizerFiles(directory), generation)
    most = config.attribute("vocabulary")
    found: dict[str, int] = {}
    problems, guessed = [], []
    for role in ROLES:
        wanted = asked.get(role)
        told = teller.asked(wanted) if wanted is not None else teller.told(role)
        option = _OPTIONS[role]
        numbers = sorted(set(told.values()))
        if not numbers:
            of = f" from {wanted!r}" if wanted is not None else ""
            problems.append(
                Problem(
                    f"cannot tell the {role} token{of}",
                    file=config.file,
                    expected="the code of a language" if teller.begins(role) else None,
                    remedy=f"give its id: {option} ID",
                )
            )
        elif len(numbers) > 1:
            shown = [f"{number} by {by}" for by, number in told.items()]
            choices = [str(number) for number in numbers]
            if teller.begins(role):
                shown = [f"{code} ({number})" for code, number in told.items()]
                choices = list(told)
            problems.append(
                Problem(
                    f"the {role} token is ambiguous",
                    file=config.file,
                    expected="one id",
                    found=_some(shown, ", "),
                    remedy="choose: " + _some([f"{option} {each}" for each in choices], " or "),
                )
            )
        elif not isinstance(most, int) or not 0 <= numbers[0] < most:
            problems.append(
                Problem(
                    f"the {role} token lies outside the vocabulary",
                    file=config.file,
                    expected=f"an id below {most}",
                    found=str(numbers[0]),
                    remedy=f"give another: {option} ID, or let the embeddings grow to the "
                    "tokenizer's size: --resize-embeddings",
                )
            )
        else:
            found[role] = numbers[0]
            guessed += [f"{role} {numbers[0]}"] if _OWN in told else []
    if problems:
        raise ConfigError("the decoder's special tokens are not known", problems)
    bos = teller.bos(asked.get("bos"))
    if bos is not None and isinstance(most, int) and bos < most:
        found["bos"] = bos
    notes = [*teller.notes()]
    if guessed:
        notes.append(
            f"decoder: no file tells its special tokens; those of {config.architecture.name}'s own "
            f"vocabulary are taken: {', '.join(guessed)}"
        )
    return SpecialTokens(found, teller.forced(), tuple(notes))


@dataclass(frozen=True)
class _TokenSources:
    """Who says what of a decoder's tokens."""

    config: ModelConfig
    tokenizer: TokenizerFiles
    generation: GenerationSettings

    @property
    def languages(self) -> TargetLanguages:
        return target_languages(self.config, self.tokenizer)

    def asked(self, wanted: str | int) -> dict[str, int]:
        """The token that the user means by an id or by its text."""
        text = str(wanted)
        if text.isdecimal() and len(text) < 10:
            return {"option": int(text)}
        known = self.tokenizer.id_of(text)
        known = self.languages.ids.get(text) if known is None else known
        return {} if known is None else {"option": known}

    def begins(self, role: str) -> bool:
        """Whether it is the code of a language, and nothing told which."""
        return role == "start" and self.config.architecture.languages is not None

    def told(self, role: str) -> dict[str, int]:
        """Who says what of a role; several entries only if they speak of the same token."""
        field = TOKEN_FIELDS[role]
        if role == "start":
            if stated := self._stated(field):
                return stated
            if self.languages.starts:
                target = self.languages.target
                return self.languages.ids if target is None else {"the tokenizer": target}
        entry = self.config.architecture.tokens.get(role)
        names = [*_NAMES[role], *([entry.token] if entry else [])]
        for name in dict.fromkeys(reversed(names) if entry and entry.overrides_config else names):
            said = self._stated(f"{name}_token_id")
            if (known := self.tokenizer.special(name)) is not None:
                said["the tokenizer"] = known
            if said:
                return said
        vocabulary = self.config.attribute("vocabulary")
        whole = isinstance(vocabulary, int) and entry is not None and entry.id < vocabulary
        return {_OWN: entry.id} if entry and whole and not self._may_be_a_code(role) else {}

    def _may_be_a_code(self, role: str) -> bool:
        """Whether a code of a language begins, of which nothing is known."""
        return self.begins(role) and self.tokenizer.size is None

    def _stated(self, field: str) -> dict[str, int]:
        said = {
            f"{field} of the configuration": _first(self.config.raw.get(field)),
            f"{field} of {self.generation.file}": _first(self.generation.tokens.get(field)),
        }
        return {by: value for by, value in said.items() if value is not None}

    def bos(self, wanted: str | int | None) -> int | None:
        """The token that texts begin with, if there is one."""
        if wanted is not None:
            return next(iter(self.asked(wanted).values()), None)
        stated = self._stated(TOKEN_FIELDS["bos"]).values()
        return next(iter(stated), self.tokenizer.special("bos"))

    def forced(self) -> int | None:
        """What must be written first, where the settings do not say."""
        if self.languages.follows and FORCED not in self.generation.settings:
            return self.languages.target
        return None

    def notes(self) -> list[str]:
        untold = FORCED not in self.generation.settings and self.languages.target is None
        if self.languages.follows and self.languages.ids and untold:
            return [
                "decoder: what it writes begins with the code of its language, and nothing "
                f"tells which: begin the labels with it, or --set {FORCED}=ID"
            ]
        return []


def _first(value: object) -> int | None:
    if isinstance(value, list) and value:
        value = value[0]  # several tokens may end a text; one is enough to begin training
    return non_negative_int(value)


def _some(texts: list[str], between: str) -> str:
    """The first of `texts`, and how many more there are."""
    more = len(texts) - _SHOWN
    return between.join(texts[:_SHOWN]) + (f"{between}{more} more" if more > 0 else "")

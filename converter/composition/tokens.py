"""Special tokens: where generation begins, ends and pads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from converter.composition.tokenizer import Tokenizer, plain
from converter.errors import ConfigError, Problem
from converter.tables.config import FamilyConfig

ROLES = ("start", "end", "pad")
"""The tokens that a decoder cannot do without; tables name the same."""

FIELDS = {
    "start": "decoder_start_token_id",
    "end": "eos_token_id",
    "pad": "pad_token_id",
    "bos": "bos_token_id",
}
"""Role → the field of configurations, and of ``generation_config.json``, that holds its id."""

_OPTIONS = {"start": "--decoder-start-token", "end": "--eos-token", "pad": "--pad-token"}

_NAMES: Mapping[str, tuple[str, ...]] = {"start": (), "end": ("eos",), "pad": ("pad",)}
"""Role → what configurations and tokenizers call its token, before the family's own name."""


def resolve_tokens(
    config: FamilyConfig,
    directory: Path,
    asked: Mapping[str, str | int | None],
    vocabulary: int | None = None,
) -> dict[str, int]:
    """The ids of a decoder's start, end, pad and, where it has one, bos token.

    In this order: what the user asked for; what the configuration says; what the tokenizer's files
    say; the family's own vocabulary if the model's is large enough to be it. Where configuration
    and tokenizer state different ids of the same token, nobody can tell which of the two the
    weights were trained with, and the user must. ``decoder_start_token_id`` is no token of the
    tokenizer and is never questioned.

    Args:
        config: of the decoder.
        directory: where the decoder's tokenizer files lie, if it has any.
        asked: role → id or text of a token.
        vocabulary: number of embeddings, where not the configuration's.

    Raises:
        ConfigError: if a token cannot be told, is told twice, or its id is outside the vocabulary.
    """
    tokenizer = Tokenizer(directory)
    most = config.measure("vocabulary") if vocabulary is None else vocabulary
    found: dict[str, int] = {}
    problems = []
    for role in ROLES:
        wanted = asked.get(role)
        told = _asked(wanted, tokenizer) if wanted is not None else _told(role, config, tokenizer)
        option = _OPTIONS[role]
        numbers = sorted(set(told.values()))
        if not numbers:
            problems.append(
                Problem(
                    f"cannot tell the {role} token"
                    + (f" from {wanted!r}" if wanted is not None else ""),
                    file=config.file,
                    remedy=f"give its id: {option} ID",
                )
            )
        elif len(numbers) > 1:
            problems.append(
                Problem(
                    f"the {role} token is ambiguous",
                    file=config.file,
                    expected="one id",
                    found=", ".join(f"{number} by {by}" for by, number in told.items()),
                    remedy="choose: " + " or ".join(f"{option} {number}" for number in numbers),
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
    if problems:
        raise ConfigError("the decoder's special tokens are not known", problems)
    bos = plain(config.raw.get(FIELDS["bos"]))
    bos = tokenizer.special("bos") if bos is None else bos
    if bos is not None and isinstance(most, int) and bos < most:
        found["bos"] = bos
    return found


def _asked(wanted: str | int, tokenizer: Tokenizer) -> dict[str, int]:
    text = str(wanted)
    known = int(text) if text.isdecimal() and len(text) < 10 else tokenizer.id_of(text)
    return {} if known is None else {"option": known}


def _told(role: str, config: FamilyConfig, tokenizer: Tokenizer) -> dict[str, int]:
    """Who says what of a role; several entries only if they speak of the same token."""
    entry = config.family.tokens.get(role)
    stated = _field(config, FIELDS[role])
    if role == "start" and stated is not None:
        return {FIELDS[role]: stated}
    for name in dict.fromkeys([*_NAMES[role], *([entry.token] if entry else [])]):
        number, known = _field(config, f"{name}_token_id"), tokenizer.special(name)
        said = {f"{name}_token_id of the configuration": number, "the tokenizer": known}
        known_ids = {by: value for by, value in said.items() if value is not None}
        if known_ids:
            return known_ids
    if entry is None:
        return {}
    vocabulary = config.measure("vocabulary")
    if isinstance(vocabulary, int) and entry.id < vocabulary:
        return {"the family's vocabulary": entry.id}
    return {}


def _field(config: FamilyConfig, field: str) -> int | None:
    value = config.raw.get(field)
    if isinstance(value, list) and value:
        value = value[0]  # several tokens may end a text; one is enough to begin training
    return plain(value)

"""Codes of languages: which one a decoder begins what it writes with."""

from __future__ import annotations

from dataclasses import dataclass

from converter.composition.tokenizer import Tokenizer
from converter.tables.config import FamilyConfig


@dataclass(frozen=True)
class Written:
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


def written(config: FamilyConfig, tokenizer: Tokenizer) -> Written:
    """What is told of the languages of a decoder: by its tokenizer, or by its family's own
    vocabulary where that is what it has; nothing if its family knows none.

    Args:
        config: of the decoder.
        tokenizer: the one beside it, if any is.
    """
    table = config.family.languages
    if table is None:
        return Written({}, follows=False)
    told = {code: tokenizer.id_of(code) for code in table.names}
    ids = {code: number for code, number in told.items() if number is not None}
    vocabulary = config.measure("vocabulary")
    if not ids and tokenizer.size is None and isinstance(vocabulary, int):
        ids = table.ids(vocabulary)
    name = tokenizer.language or ""
    target = ids.get(name, ids.get(table.form.format(name)))
    if target is None and len(ids) == 1:
        (target,) = ids.values()
    return Written(ids, tokenizer.class_name in table.follows, target)

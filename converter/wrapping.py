"""What training code and savers put around a model's own names, and how to see through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

from converter.tables.schema import Dialect

MAX_WRAPPERS = 3
"""Wrappers around one another: a compiled model in a data-parallel one in a Lightning module."""


@dataclass(frozen=True)
class Reading:
    """A way to read stored names as a dialect's own."""

    known: int = -1
    """How many names are known when they are read so."""
    lead: str = ""
    """What stands before the names."""
    separators: tuple[str, str] | None = None
    """What flat files have for the dialect's separator, and that."""
    inside: tuple[str, ...] = ()
    """What wrappers of single modules put before the names of what they hold."""
    halves: Mapping[str, str] = field(default_factory=dict)
    """The file's own name of a half of a combined model → the half."""

    def bare(self, name: str) -> str:
        """A stored name as the dialect's own."""
        return self.plain(name).removeprefix(self.lead)

    def plain(self, name: str) -> str:
        """A stored name as the dialect's own, but for what stands before all names."""
        if self.separators:
            name = name.replace(*self.separators)
        for each in self.inside:
            while f".{each}" in name:
                name = name.replace(f".{each}", ".")
        for own, half in self.halves.items():
            if name.startswith(own):
                return half + name[len(own) :]
        return name


def best_reading(
    names: Sequence[str], dialect: Dialect, index: Collection[str], halves: Sequence[str] = ()
) -> Reading:
    """How to read `names` so that most of them are known; the plainer way among equals.

    Args:
        names: as stored, in the order of the file.
        dialect: the dialect that they may be in.
        index: the names that are known.
        halves: of a combined model, the names of its halves.
    """
    separators = None
    if dialect.flat and not any(dialect.separator in name for name in names):
        separators = (dialect.flat, dialect.separator)
    best = Reading()
    for renamed in _renamings(names, dialect.separator, index, halves):
        plain = Reading(separators=separators, inside=dialect.inside, halves=renamed)
        read = [plain.bare(name) for name in names]
        for lead, known in _leads(read, dialect.wrappers, index).items():
            if known > best.known:
                best = replace(plain, known=known, lead=lead)
    return best


def _leads(names: Iterable[str], wrappers: Sequence[str], index: Collection[str]) -> dict[str, int]:
    """What may stand before the names → how many are known without it, the shortest first."""
    plain, below, lost = 0, Counter[str](), Counter[str]()
    for name in names:
        known = name in index
        plain += known
        for lead in _own_leads(name, wrappers):
            below[lead] += name[len(lead) :] in index
            lost[lead] += known
    counts = {lead: plain + found - lost[lead] for lead, found in below.items()}
    return {"": plain, **{lead: counts[lead] for lead in sorted(counts, key=len)}}


def _own_leads(name: str, wrappers: Sequence[str]) -> Iterator[str]:
    """Every run of up to `MAX_WRAPPERS` wrappers that `name` begins with."""
    leads = [""]
    for _ in range(MAX_WRAPPERS):
        leads = [lead + each for lead in leads for each in wrappers if name.startswith(lead + each)]
        yield from leads


def _renamings(
    names: Iterable[str], separator: str, index: Iterable[str], halves: Sequence[str]
) -> Iterator[dict[str, str]]:
    """The file's names of halves that it does not call by theirs, in every order.

    A TensorFlow model that is made of two others calls them ``tf_bert_model`` and
    ``tf_bert_lm_head_model``, whatever its attributes are called.
    """
    yield {}
    if not halves:
        return
    known = {name.partition(separator)[0] for name in index}
    firsts = dict.fromkeys(name.partition(separator)[0] for name in names if separator in name)
    absent = [half for half in halves if half not in firsts]
    strange = [first for first in firsts if first not in known]
    if absent and len(strange) == len(absent):
        for order in permutations(absent):
            pairs = zip(strange, order, strict=True)
            yield {first + separator: half + separator for first, half in pairs}

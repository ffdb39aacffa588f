"""What each dialect calls a tensor."""

from __future__ import annotations

from dataclasses import dataclass

from converter.tables.config import Places
from converter.tables.schema import Dialect, Family, Leaf, Row, Vocabulary
from converter.tensors import Axes

OUTSIDE = "/"
"""Begins the path of a module that a dialect keeps beside the base model, not inside."""


@dataclass(frozen=True)
class Spelling:
    """A tensor in one dialect."""

    name: str
    """As it is written for this very model."""
    axes: Axes
    shape: tuple[int, ...]
    also: tuple[str, ...] = ()
    """Other names under which files hold it: with or without the base model's, older ones."""


@dataclass(frozen=True)
class Namer:
    """Spells the tensors of one group of rows."""

    vocabulary: Vocabulary
    family: Family | None
    prefix: str
    in_base: bool
    beside_head: bool

    def canonical(self, name: str) -> str:
        """A canonical name, behind the half that the model is."""
        return f"{self.prefix}.{name}" if self.prefix else name

    def spell(
        self,
        dialect: Dialect,
        row: Row,
        leaf: Leaf,
        places: Places,
        lengths: dict[str, int],
    ) -> Spelling:
        """A leaf of a row in one dialect.

        Args:
            dialect: in which dialect.
            row: the row.
            leaf: the leaf, which must have a spelling in the dialect.
            places: what the places in the row's path stand for.
            lengths: the length of each named axis.
        """
        spelled = leaf.spellings[dialect.name]
        override = row.paths.get(dialect.name)
        index = self.family.index.get(dialect.name) if self.family else None
        path = override.format(places) if override else dialect.path(row.path.format(places), index)
        last = spelled.leaf
        if dialect.name in row.leaves and leaf is row.kind.leaves[0]:
            last = row.leaves[dialect.name]
        bases = [""]
        base = self.family.base.get(dialect.name) if self.family else None
        if self.in_base and base:
            bases = [base, ""] if dialect.base_always or self.beside_head else ["", base]
        paths = [path, *(other.format(places) for other in row.also.get(dialect.name, ()))]
        names = [
            dialect.join(self.prefix, base, path.removeprefix(OUTSIDE), name) + dialect.suffix
            for path in paths
            for name in (last, *spelled.also)
            for base in ([""] if path.startswith(OUTSIDE) else bases)
        ]
        return Spelling(names[0], spelled.axes, spelled.axes.shape(lengths), tuple(names[1:]))

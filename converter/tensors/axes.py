"""Named axes, and the rearrangement that leads from one order of them to another.

A layout is written as the names of a tensor's axes in storage order, such as ``"out in"``. The
literal ``1`` stands for an axis of length one that other layouts lack (TFConv1D keeps its bias as
``"1 out"``). Nobody writes "transpose": it follows from two layouts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Axes:
    """The axes of a tensor in storage order, outermost first."""

    order: tuple[str, ...]

    def __post_init__(self) -> None:
        named = self.names
        if len(set(named)) != len(named):
            raise ValueError(f"axes {' '.join(self.order)!r} name an axis twice")
        for axis in self.order:
            if axis != "1" and not axis.isidentifier():
                raise ValueError(f"{axis!r} is neither an axis name nor 1")

    @classmethod
    def parse(cls, text: str) -> Axes:
        """Read ``"out in"``; the empty string is a scalar.

        Raises:
            ValueError: if a name stands twice or is no identifier.
        """
        return cls(tuple(text.split()))

    def __str__(self) -> str:
        return " ".join(self.order)

    @property
    def names(self) -> tuple[str, ...]:
        """The named axes, without the literal ones."""
        return tuple(axis for axis in self.order if axis != "1")

    def shape(self, sizes: dict[str, int]) -> tuple[int, ...]:
        """The shape in this layout, given each named axis' length."""
        return tuple(1 if axis == "1" else sizes[axis] for axis in self.order)


@dataclass(frozen=True)
class Rearrangement:
    """The exact, invertible way from one layout to another.

    Raises:
        ValueError: if the two layouts do not hold the same named axes.
    """

    source: Axes
    target: Axes

    def __post_init__(self) -> None:
        if set(self.source.names) != set(self.target.names):
            raise ValueError(f"axes '{self.source}' and '{self.target}' hold different names")

    @cached_property
    def permutation(self) -> tuple[int, ...]:
        """For each named target axis, its place among the named source axes."""
        return tuple(self.source.names.index(axis) for axis in self.target.names)

    @property
    def keeps_bytes(self) -> bool:
        """Whether the values lie in the same order in both layouts."""
        return self.permutation == tuple(range(len(self.permutation)))

    @property
    def inverse(self) -> Rearrangement:
        """The way back."""
        return Rearrangement(self.target, self.source)

    def shape(self, source_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The target shape of a tensor whose shape in the source layout is `source_shape`.

        Raises:
            ValueError: if `source_shape` does not fit the source layout.
        """
        order = self.source.order
        if len(source_shape) != len(order) or any(
            axis == "1" and length != 1 for axis, length in zip(order, source_shape, strict=True)
        ):
            raise ValueError(f"shape {list(source_shape)} does not fit axes '{self.source}'")
        return self.target.shape(dict(zip(order, source_shape, strict=True)))

    def __str__(self) -> str:
        return f"{self.source} → {self.target}"

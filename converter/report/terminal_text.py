"""Parts of the terminal reports: lines, tables, numbers, and lists of tensor names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from io import StringIO
from itertools import zip_longest
from typing import Any, Literal, ParamSpec, Protocol, TypeVar

from converter.system import terminal_width
from converter.text import (
    cell_width,
    collapse_ranges,
    printable,
    split_layer_index,
    summarize_names,
    wrap,
)

K = TypeVar("K")
T = TypeVar("T")
_P = ParamSpec("_P")

_GAP = 2
"""Columns between columns."""

_UNBOUNDED = 10_000
"""Columns if the output is not a terminal, so that lines in a pipe are not wrapped."""


_NARROWEST = 24
"""Columns that longer text has at least; otherwise rows are stacked."""

MAX_LISTED = 60
"""Names or rows of one list that are printed, layers collapsed."""


def size(nbytes: int) -> str:
    """Format a number of bytes: ``512 B``, ``1.2 kB``, ``989.1 MB``."""
    amount, unit = float(nbytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.95:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def count(number: int, noun: str) -> str:
    """Format a number with its noun: ``1 tensor``, ``1,204 tensors``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def shape(lengths: Sequence[int]) -> str:
    """Format a shape: ``768 × 3072``; ``scalar``."""
    return " × ".join(map(str, lengths)) or "scalar"


def collapse_params(names: Iterable[str]) -> list[str]:
    """Collapse names: ``decoder.h.{0…11}.ln_cross_attn.{weight,bias}`` instead of 24 names."""
    params = grouped(name.rpartition(".")[::2] for name in names)
    modules = grouped((tuple(dict.fromkeys(group)), module) for module, group in params.items())
    collapsed = {
        module: group for group, each in modules.items() for module in collapse_ranges(each)
    }
    return [
        ".".join(filter(None, (module, group[0] if len(group) == 1 else f"{{{','.join(group)}}}")))
        for module, group in collapsed.items()
    ]


def bounded(names: Sequence[str]) -> list[str]:
    """Return the first `MAX_LISTED` names, and how many more there are."""
    more = len(names) - MAX_LISTED
    return [*names[:MAX_LISTED], *([f"… and {more:,} more; --json lists all"] if more > 0 else [])]


def grouped(pairs: Iterable[tuple[K, T]]) -> dict[K, list[T]]:
    """Return the values of each key, in order."""
    groups: dict[K, list[T]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def group_layers(items: Iterable[T], key: Callable[[T], tuple[Any, ...]]) -> list[list[T]]:
    """Group items by a key that starts with a name, of which the layer index is ignored."""

    def without_index(item: T) -> tuple[Any, ...]:
        name, *rest = key(item)
        head, _, tail = split_layer_index(name)
        return head, tail, *rest

    return list(grouped((without_index(item), item) for item in items).values())


def by_reason(reasons: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Group pairs of name and reason: reason → collapsed names in one line."""
    groups = grouped((reason, name) for name, reason in reasons)
    return {reason: summarize_names(names) for reason, names in groups.items()}


Style = Literal["", "bold", "dim", "green", "bold green", "bold red"]
_STYLES: Mapping[Style, str] = {
    "bold": "1",
    "dim": "2",
    "green": "32",
    "bold green": "1;32",
    "bold red": "1;31",
}
"""Style → parameters of the control sequence Select Graphic Rendition (ECMA-48)."""


class Part(Protocol):
    """A part of a report, which chooses its layout when it is printed."""

    def rows(self, width: int) -> Iterator[tuple[str, Style]]:
        """Yield each line for a terminal of `width` columns, and its style."""


@dataclass(frozen=True)
class Lines:
    """Lines that are wrapped between words and parts of names, or never."""

    texts: tuple[str, ...]
    style: Style = ""
    wrapped: bool = True

    def rows(self, width: int) -> Iterator[tuple[str, Style]]:
        """Yield each line of the terminal."""
        for text in self.texts:
            for piece in wrap(text, width) if self.wrapped else [text]:
                yield piece, self.style


def line(text: str, style: Style = "") -> Lines:
    """Return a line."""
    return lines([text], style)


def lines(texts: Iterable[str], style: Style = "") -> Lines:
    """Return several lines; a line break within one of them is escaped."""
    return Lines(tuple(map(printable, texts)), style)


def more_lines(number: int) -> Iterator[Lines]:
    """Yield a line that says how many rows are left out of a list of that `number`, if any."""
    if number > MAX_LISTED:
        yield line(f"  … and {number - MAX_LISTED:,} more; --json lists all")


def heading(text: str) -> Lines:
    """Return the heading of a section."""
    return lines(["", text], "bold")


def unwrapped(text: str) -> Lines:
    """Return a line that is never wrapped, so that it can be copied from any terminal."""
    return Lines((printable(text, limit=sys.maxsize),), wrapped=False)


def table(
    rows: Iterable[Sequence[str]],
    header: Sequence[str] = (),
    right: Sequence[int] = (),
    *,
    repeats: str = "",
) -> TextTable:
    """Return a table without borders, whose rows are stacked if the terminal is too narrow.

    Titled columns without content are left out. `right` contains the indices of right-aligned
    columns. On a terminal a last cell that is that of the row before is shortened to `repeats`, if
    that is given and shorter.
    """
    cells = [(*map(printable, row),) for row in rows]
    kept = [n for n, _ in enumerate(header) if not cells or any(row[n] for row in cells)]
    if len(kept) < len(header):
        cells = [tuple(row[n] for n in kept) for row in cells]
        header, right = [header[n] for n in kept], [kept.index(n) for n in right if n in kept]
    return TextTable(cells, tuple(header), tuple(right), repeats)


@dataclass(frozen=True)
class TextTable:
    """A table that chooses its layout when it is printed."""

    cells: Sequence[tuple[str, ...]]
    header: tuple[str, ...]
    right: tuple[int, ...]
    repeats: str

    def rows(self, width: int) -> Iterator[tuple[str, Style]]:
        """Yield columns if no word is broken by that, or else several lines for each row."""
        on_terminal = width < _UNBOUNDED // 2
        rows = self._without_repetition() if on_terminal and self.repeats else self.cells
        columns = list(zip_longest(*([self.header] if self.header else []), *rows, fillvalue=""))
        widths = self._widths(columns, width)
        if widths is None:
            yield from ((text, "") for cells in rows for text in self._stacked(cells, width))
            return
        if self.header:
            yield from ((text, "dim") for text in self._row(self.header, widths))
        for cells in rows:
            yield from ((text, "") for text in self._row(cells, widths))

    def _without_repetition(self) -> Sequence[tuple[str, ...]]:
        before = ["", *(row[-1] for row in self.cells)]
        return [
            (*row[:-1], self.repeats) if row[-1] == last and len(last) > len(self.repeats) else row
            for row, last in zip(self.cells, before, strict=False)
        ]

    def _widths(self, columns: Sequence[Sequence[str]], width: int) -> list[int] | None:
        """Return the widths of columns; ``None`` if words would have to be broken."""
        width -= _GAP * (len(columns) - 1)
        most = [max(map(cell_width, column)) for column in columns]
        if sum(most) <= width:
            return most
        least = [
            full
            if number == 0 or number in self.right
            else max(
                [
                    _NARROWEST if full > _NARROWEST else 0,
                    *(cell_width(word) for cell in column for word in cell.split()),
                ]
            )
            for number, (column, full) in enumerate(zip(columns, most, strict=True))
        ]
        spare, wanting = width - sum(least), sum(most) - sum(least)
        if spare < 0:
            return None
        return [
            low + spare * (full - low) // wanting for low, full in zip(least, most, strict=True)
        ]

    def _row(self, cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
        wrapped = [wrap(cell, width) for cell, width in zip(cells, widths, strict=False)]
        for pieces in zip_longest(*wrapped, fillvalue=""):
            padded = []
            for number, piece in enumerate(pieces):
                padding = " " * (widths[number] - cell_width(piece))
                padded.append(padding + piece if number in self.right else piece + padding)
            yield (" " * _GAP).join(padded)

    def _stacked(self, cells: Sequence[str], width: int) -> Iterator[str]:
        """Yield the first cell, and the others below it; numbers have the title of their column."""
        yield from wrap(cells[0], width)
        last = ""
        for number, cell in enumerate(cells[1:], 1):
            if not cell:
                continue
            text = f"{self.header[number]} {cell}" if self.header and number in self.right else cell
            if last and cell_width(last) + _GAP + cell_width(text) <= width:
                last += " " * _GAP + text
                continue
            if last:
                yield from wrap(last, width)
            last = "  " + text
        yield from wrap(last, width) if last else ()


@dataclass(frozen=True)
class Indented:
    """A part that is indented by two columns."""

    part: Part

    def rows(self, width: int) -> Iterator[tuple[str, Style]]:
        """Yield the lines of the part."""
        for text, style in self.part.rows(max(1, width - 2)):
            yield f"  {text}", style


def indented(part: Part) -> Indented:
    """Indent a part by two columns."""
    return Indented(part)


def rendered(parts: Callable[_P, Iterator[Part]]) -> Callable[_P, str]:
    """Make a generator of parts a function that returns their text for standard output."""

    @wraps(parts)
    def text(*args: _P.args, **kwargs: _P.kwargs) -> str:
        return render(parts(*args, **kwargs))

    return text


def render(parts: Iterable[Part], stream: Any = None) -> str:
    """Render `parts` for `stream` (default: stdout), with its width and styles if a terminal."""
    width = terminal_width(stream or sys.stdout or StringIO())
    written = []
    for part in parts:
        for text, style in part.rows(width or _UNBOUNDED):
            text = text.rstrip()
            if style and text and width is not None:
                text = f"\x1b[{_STYLES[style]}m{text}\x1b[0m"
            written.append(f"{text}\n")
    return "".join(written)

"""Parts of the terminal reports: lines, tables, numbers, and lists of tensor names."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from io import StringIO
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from converter.system import terminal_width
from converter.text import (
    cell_width,
    collapse_ranges,
    printable,
    split_layer_index,
    summarize_names,
    wrap,
)

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

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


@dataclass(frozen=True)
class Lines:
    """Lines that are never parsed as markup, and wrapped between words and parts of names."""

    texts: tuple[str, ...]
    style: str

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield each line of the terminal."""
        for text in self.texts:
            for piece in wrap(text, options.max_width):
                yield _unbroken(piece, self.style)


def _unbroken(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style=style, no_wrap=True, overflow="ignore")


def line(text: str, style: str = "") -> Lines:
    """Return a line."""
    return lines([text], style)


def lines(texts: Iterable[str], style: str = "") -> Lines:
    """Return several lines; a line break within one of them is escaped."""
    return Lines(tuple(map(printable, texts)), style)


def more_lines(number: int) -> Iterator[Lines]:
    """Yield a line that says how many rows are left out of a list of that `number`, if any."""
    if number > MAX_LISTED:
        yield line(f"  … and {number - MAX_LISTED:,} more; --json lists all")


def heading(text: str) -> Lines:
    """Return the heading of a section."""
    return lines(["", text], "bold")


def unwrapped(text: str) -> Text:
    """Return a line that is never wrapped, so that it can be copied from any terminal."""
    return _unbroken(printable(text, limit=sys.maxsize))


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

    rows: Sequence[tuple[str, ...]]
    header: tuple[str, ...]
    right: tuple[int, ...]
    repeats: str

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield columns if no word is broken by that, or else several lines for each row."""
        on_terminal = options.max_width < _UNBOUNDED // 2
        rows = self._without_repetition() if on_terminal and self.repeats else self.rows
        columns = list(zip_longest(*([self.header] if self.header else []), *rows, fillvalue=""))
        widths = self._widths(columns, options.max_width)
        if widths is None:
            yield from (part for cells in rows for part in self._stacked(cells, options.max_width))
            return
        if self.header:
            yield from self._row(self.header, widths, "dim")
        for cells in rows:
            yield from self._row(cells, widths)

    def _without_repetition(self) -> Sequence[tuple[str, ...]]:
        before = ["", *(row[-1] for row in self.rows)]
        return [
            (*row[:-1], self.repeats) if row[-1] == last and len(last) > len(self.repeats) else row
            for row, last in zip(self.rows, before, strict=False)
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

    def _row(self, cells: Sequence[str], widths: Sequence[int], style: str = "") -> Iterator[Text]:
        wrapped = [wrap(cell, width) for cell, width in zip(cells, widths, strict=False)]
        for pieces in zip_longest(*wrapped, fillvalue=""):
            padded = []
            for number, piece in enumerate(pieces):
                padding = " " * (widths[number] - cell_width(piece))
                padded.append(padding + piece if number in self.right else piece + padding)
            yield _unbroken((" " * _GAP).join(padded).rstrip(), style)

    def _stacked(self, cells: Sequence[str], width: int) -> Iterator[Text]:
        """Yield the first cell, and the others below it; numbers have the title of their column."""
        yield from map(_unbroken, wrap(cells[0], width))
        last = ""
        for number, cell in enumerate(cells[1:], 1):
            if not cell:
                continue
            text = f"{self.header[number]} {cell}" if self.header and number in self.right else cell
            if last and cell_width(last) + _GAP + cell_width(text) <= width:
                last += " " * _GAP + text
                continue
            if last:
                yield from map(_unbroken, wrap(last, width))
            last = "  " + text
        yield from map(_unbroken, wrap(last, width) if last else ())


def indented(part: RenderableType) -> RenderableType:
    """Indent a part by two columns."""
    from rich.padding import Padding

    return Padding(part, (0, 0, 0, 2))


def rendered(parts: Callable[_P, Iterator[RenderableType]]) -> Callable[_P, str]:
    """Make a generator of parts a function that returns their text for standard output."""

    @wraps(parts)
    def text(*args: _P.args, **kwargs: _P.kwargs) -> str:
        return render(parts(*args, **kwargs))

    return text


def render(parts: Iterable[RenderableType], stream: Any = None) -> str:
    """Render `parts` for `stream` (default: stdout), with its width and colors if a terminal."""
    from rich.console import Console
    from rich.text import Text

    stream = stream or sys.stdout or StringIO()
    width = terminal_width(stream)
    written = StringIO()  # `Console.capture` would write to the stream, which may fail
    console = Console(
        file=written,
        width=width or _UNBOUNDED,
        height=25,  # rich measures dumb terminals itself unless both are given
        no_color=True if os.environ.get("NO_COLOR") else None,
        force_terminal=width is not None,
        markup=False,
        emoji=False,
        highlight=False,
    )
    for part in parts:
        unbroken = isinstance(part, Text) and part.no_wrap
        console.print(part, crop=False, soft_wrap=bool(unbroken))
    return "\n".join(text.rstrip() for text in written.getvalue().splitlines()) + "\n"

"""The pieces that all reports are made of."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table
    from rich.text import Text

_GAP = 2
"""Columns between columns."""

_UNBOUNDED = 10_000
"""Columns where there is no terminal: whoever reads a pipe wants whole lines."""


def printable(text: str) -> str:
    """`text` with control characters escaped, so that a file's names cannot steer a terminal."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text
    )


def size(nbytes: int) -> str:
    """Bytes in the unit that suits: ``512 B``, ``1.2 kB``, ``989.1 MB``."""
    amount, unit = float(nbytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.95:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def count(number: int, noun: str) -> str:
    """``1 tensor``, ``1,204 tensors``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def shape(lengths: Sequence[int]) -> str:
    """``768 × 3072``; ``scalar``."""
    return " × ".join(map(str, lengths)) or "scalar"


def line(text: str, style: str = "") -> Text:
    """A line or a cell: never taken for markup, wrapped anywhere if it must be."""
    from rich.text import Text

    return Text(printable(text), style=style, overflow="fold")


def heading(text: str) -> Text:
    """The line above a part of a report."""
    return line(f"\n{text}", "bold")


def unwrapped(text: str) -> Text:
    """A line that is never wrapped here, so that it can be copied from any terminal."""
    from rich.text import Text

    return Text(printable(text), no_wrap=True, overflow="ignore")


def table(
    rows: Iterable[Sequence[str]], header: Sequence[str] = (), right: Sequence[int] = ()
) -> TextTable:
    """Rows in columns, or stacked where there is no room for columns, without lines around.

    Args:
        rows: the cells.
        header: titles of the columns.
        right: numbers of the columns that are flush right.

    """
    return TextTable([tuple(row) for row in rows], tuple(header), tuple(right))


@dataclass(frozen=True)
class TextTable:
    """What `table` makes; decides when it is printed."""

    rows: Sequence[tuple[str, ...]]
    header: tuple[str, ...]
    right: tuple[int, ...]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """A table; if that is too wide and its first column to blame, two lines a row."""
        columns = list(zip_longest(*([self.header] if self.header else []), *self.rows))
        widths = [max(len(cell or "") for cell in column) + _GAP for column in columns]
        if sum(widths) <= options.max_width or not widths or 2 * widths[0] <= options.max_width:
            yield self._columns()
            return
        for first, *rest in self.rows:
            yield line(first)
            yield indented(line("  ".join(cell for cell in rest if cell)))

    def _columns(self) -> Table:
        from rich.table import Table

        count = len(self.header) or max(map(len, self.rows), default=0)
        built = Table(
            box=None, show_header=bool(self.header), padding=(0, _GAP, 0, 0), header_style="dim"
        )
        for number in range(count):
            built.add_column(
                line(self.header[number]) if self.header else "",
                justify="right" if number in self.right else "left",
                overflow="fold",
                no_wrap=number == 0,  # it takes at most half of the room: see above
            )
        for cells in self.rows:
            built.add_row(*(line(cell) for cell in cells))
        return built


def indented(part: RenderableType) -> RenderableType:
    """`part`, two columns in."""
    from rich.padding import Padding

    return Padding(part, (0, 0, 0, 2))


def render(parts: Iterable[RenderableType], stream: Any = None) -> str:
    """The text of `parts` for `stream` (standard output): its width and colours if a terminal."""
    from rich.console import Console
    from rich.text import Text

    stream = stream or sys.stdout or StringIO()
    terminal = bool(stream.isatty())
    written = StringIO()  # `Console.capture` would touch the stream, which may refuse
    console = Console(
        file=written,
        width=None if terminal else _UNBOUNDED,
        no_color=True if os.environ.get("NO_COLOR") else None,
        force_terminal=terminal,
        markup=False,
        emoji=False,
        highlight=False,
    )
    for part in parts:
        unbroken = isinstance(part, Text) and part.no_wrap
        console.print(part, crop=False, soft_wrap=bool(unbroken))
    return "\n".join(text.rstrip() for text in written.getvalue().splitlines()) + "\n"

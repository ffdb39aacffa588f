"""The pieces that all reports are made of."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

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


def table(
    rows: Iterable[Sequence[str]], header: Sequence[str] = (), right: Sequence[int] = ()
) -> Table:
    """Rows in columns, indented, without lines around them.

    Args:
        rows: the cells.
        header: titles of the columns.
        right: numbers of the columns that are flush right.
    """
    from rich.table import Table

    built = Table(box=None, show_header=bool(header), padding=(0, 2, 0, 0), header_style="dim")
    lines = [tuple(row) for row in rows]
    for number in range(len(header) or max(map(len, lines), default=0)):
        built.add_column(
            line(header[number]) if header else "",
            justify="right" if number in right else "left",
            overflow="fold",
        )
    for cells in lines:
        built.add_row(*(line(cell) for cell in cells))
    return built


def indented(part: RenderableType) -> RenderableType:
    """`part`, two columns in."""
    from rich.padding import Padding

    return Padding(part, (0, 0, 0, 2))


def render(parts: Iterable[RenderableType], stream: Any = None) -> str:
    """The text of `parts` for `stream` (standard output): its width and colours if a terminal."""
    from rich.console import Console

    stream = sys.stdout if stream is None else stream
    terminal = bool(stream.isatty())
    console = Console(
        file=stream,
        width=None if terminal else _UNBOUNDED,
        no_color=True if os.environ.get("NO_COLOR") else None,
        force_terminal=terminal,
        markup=False,
        emoji=False,
        highlight=False,
    )
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return "\n".join(text.rstrip() for text in captured.get().splitlines()) + "\n"

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

from converter.text import collapse_ranges, printable, split_layer_index

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table
    from rich.text import Text

K = TypeVar("K")
T = TypeVar("T")
_P = ParamSpec("_P")

_GAP = 2
"""Columns between columns."""

_UNBOUNDED = 10_000
"""Columns if the output is not a terminal, so that lines in a pipe are not wrapped."""


MAX_LISTED = 60
"""Names or rows of one list that are printed, layers collapsed; rich takes 0.2 ms for each."""


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


def by_reason(reasons: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Group pairs of name and reason: reason → collapsed names."""
    groups = grouped((reason, name) for name, reason in reasons)
    return {reason: bounded(collapse_ranges(names)) for reason, names in groups.items()}


def line(text: str, style: str = "") -> Text:
    """Return a line or a cell, never parsed as markup, wrapped anywhere if necessary."""
    return lines([text], style)


def lines(texts: Iterable[str], style: str = "") -> Text:
    """Return several lines; a line break within one of them is escaped."""
    from rich.text import Text

    return Text("\n".join(map(printable, texts)), style=style, overflow="fold")


def more_lines(number: int) -> Iterator[Text]:
    """Yield a line that says how many rows are left out of a list of that `number`, if any."""
    if number > MAX_LISTED:
        yield line(f"  … and {number - MAX_LISTED:,} more; --json lists all")


def heading(text: str) -> Text:
    """Return the heading of a section."""
    return lines(["", text], "bold")


def unwrapped(text: str) -> Text:
    """Return a line that is never wrapped, so that it can be copied from any terminal."""
    from rich.text import Text

    return Text(printable(text, limit=sys.maxsize), no_wrap=True, overflow="ignore")


def table(
    rows: Iterable[Sequence[str]], header: Sequence[str] = (), right: Sequence[int] = ()
) -> TextTable:
    """Return a table without borders, whose rows are stacked if the terminal is too narrow.

    `right` contains the indices of right-aligned columns.
    """
    return TextTable([tuple(row) for row in rows], tuple(header), tuple(right))


@dataclass(frozen=True)
class TextTable:
    """A table that chooses its layout when it is printed."""

    rows: Sequence[tuple[str, ...]]
    header: tuple[str, ...]
    right: tuple[int, ...]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield columns, or two lines a row if the first column makes that too wide."""
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
                no_wrap=number == 0,  # at most half of the width, see above
            )
        for cells in self.rows:
            built.add_row(*(line(cell) for cell in cells))
        return built


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
    terminal = bool(stream.isatty())
    written = StringIO()  # `Console.capture` would write to the stream, which may fail
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

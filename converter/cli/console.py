"""What goes to the two streams: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from converter.report.text import printable

if TYPE_CHECKING:
    from converter.progress import Progress

_STYLES: dict[str, dict[str, Any]] = {
    "": {},
    "bold": {"bold": True},
    "error": {"fg": "red", "bold": True},
    "warning": {"fg": "yellow"},
}


def emit(text: str) -> None:
    """Print a result.

    Raises:
        OutputError: if standard output takes nothing more, as on a full disk.
        BrokenPipeError: if nobody reads it any more.
    """
    try:
        click.echo(text, nl=not text.endswith("\n"), color=colours(sys.stdout))
    except BrokenPipeError:
        raise
    except OSError as error:
        from converter.errors import OutputError

        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def emit_json(document: Any) -> None:
    """Print the one JSON document of a run.

    Raises:
        OutputError, BrokenPipeError: as `emit`.
    """
    emit(json.dumps(document, indent=2, ensure_ascii=False))


def say(text: str, style: str = "") -> None:
    """Print a message to standard error, in one of the few styles there are.

    Where standard error takes none, as on a full disk, the work goes on without.

    Raises:
        BrokenPipeError: if nobody reads it any more.
    """
    head, colon, rest = text.partition(":") if style else (text, "", "")
    styled = click.style(printable(head + colon), **_STYLES[style]) + printable(rest)
    try:
        click.echo(styled, err=True, color=colours(sys.stderr))
    except BrokenPipeError:
        raise
    except OSError:
        return


def warn(text: str) -> None:
    """Print a warning to standard error."""
    say(f"Warning: {text}", style="warning")


def colours(stream: Any) -> bool:
    """Whether `stream` is a terminal whose user has nothing against colours (no-color.org)."""
    return not os.environ.get("NO_COLOR") and interactive(stream)


def interactive(stream: Any) -> bool:
    """Whether somebody is watching `stream` on a terminal that can do more than type.

    A stream that was closed before we started is ``None``.
    """
    return stream is not None and bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Progress | None]:
    """A bar with bytes, rate and remaining time on standard error; ``None`` in pipes."""
    if quiet or not interactive(sys.stderr):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of what is fetched, too
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    bar = Progress(
        BarColumn(bar_width=max(8, min(40, console.width - 48))),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task("", total=None)

    def update(done: int, total: int, name: str) -> None:
        bar.update(task, completed=done, total=total)
        if not bar.live.is_started:
            bar.start()

    try:
        yield update
    finally:
        bar.stop()

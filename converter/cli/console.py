"""What goes to the two streams: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from converter.report.rich_text import printable

if TYPE_CHECKING:
    from converter.progress import Progress


LEVELS = ("debug", "info", "warning", "error")


class _Handler(logging.Handler):
    """Prints records as messages of the command line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        try:
            print_message(f"{record.levelname.lower()}: {record.getMessage()}")
        except Exception:  # a message must not end the work, see `logging.Handler`
            self.handleError(record)


def show_logs(ctx: click.Context, param: click.Parameter, level: str | None) -> None:
    """Print what is logged from `level` on, until the command ends."""
    if level is None or ctx.resilient_parsing:
        return
    logger = logging.getLogger("converter")
    handlers, before = list(logger.handlers), logger.level
    # The level of the command itself replaces that of the group before it.
    logger.handlers = [each for each in handlers if not isinstance(each, _Handler)] + [_Handler()]
    logger.setLevel(level.upper())

    def restore() -> None:
        logger.handlers = handlers
        logger.setLevel(before)

    # The outermost context is closed even if the words behind this option are wrong.
    ctx.find_root().call_on_close(restore)


_STYLES: dict[str, dict[str, Any]] = {
    "": {},
    "bold": {"bold": True},
    "error": {"fg": "red", "bold": True},
    "warning": {"fg": "yellow"},
}


def print_result(text: str) -> None:
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
        OutputError, BrokenPipeError: as `print_result`.

    """
    print_result(json.dumps(document, indent=2, ensure_ascii=False))


def print_message(text: str, style: str = "") -> None:
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
    print_message(f"Warning: {text}", style="warning")


def colours(stream: Any) -> bool:
    """Whether `stream` is a terminal whose user has nothing against colours (no-color.org)."""
    return not os.environ.get("NO_COLOR") and is_terminal(stream)


def is_terminal(stream: Any) -> bool:
    """Whether somebody is watching `stream` on a terminal that can do more than type.

    A stream that was closed before we started is ``None``.
    """
    return stream is not None and bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Progress | None]:
    """A bar with bytes, rate and remaining time on standard error; ``None`` in pipes."""
    if quiet or not is_terminal(sys.stderr):
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

"""Output: results to standard output, everything else to standard error."""

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
    """A log handler that prints records as messages."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        try:
            print_message(f"{record.levelname.lower()}: {record.getMessage()}")
        except Exception:  # a message must not stop the work, see `logging.Handler`
            self.handleError(record)


def show_logs(ctx: click.Context, param: click.Parameter, level: str | None) -> None:
    """Print log records of at least `level` until the command ends."""
    if level is None or ctx.resilient_parsing:
        return
    logger = logging.getLogger("converter")
    handlers, level_before = list(logger.handlers), logger.level
    # The level of the command itself replaces that of the group before it.
    logger.handlers = [each for each in handlers if not isinstance(each, _Handler)] + [_Handler()]
    logger.setLevel(level.upper())

    def restore() -> None:
        logger.handlers = handlers
        logger.setLevel(level_before)

    # The outermost context is closed even if later arguments are wrong.
    ctx.find_root().call_on_close(restore)


_STYLES: dict[str, dict[str, Any]] = {
    "": {},
    "bold": {"bold": True},
    "error": {"fg": "red", "bold": True},
    "warning": {"fg": "yellow"},
}


def print_result(text: str) -> None:
    """Print a result; raise OutputError if that fails, BrokenPipeError if the reader has gone."""
    try:
        click.echo(text, nl=not text.endswith("\n"), color=colors(sys.stdout))
    except BrokenPipeError:
        raise
    except OSError as error:
        from converter.errors import OutputError

        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def emit_json(document: Any) -> None:
    """Print the one JSON document of a run."""
    print_result(json.dumps(document, indent=2, ensure_ascii=False))


def print_message(text: str, style: str = "") -> None:
    """Print a message to standard error, if that can be written, in one of the styles."""
    head, colon, rest = text.partition(":") if style else (text, "", "")
    styled = click.style(printable(head + colon), **_STYLES[style]) + printable(rest)
    try:
        click.echo(styled, err=True, color=colors(sys.stderr))
    except BrokenPipeError:
        raise
    except OSError:
        return


def warn(text: str) -> None:
    """Print a warning to standard error."""
    print_message(f"Warning: {text}", style="warning")


def colors(stream: Any) -> bool:
    """Return whether to use colors: on terminals, unless NO_COLOR is set (no-color.org)."""
    return not os.environ.get("NO_COLOR") and is_terminal(stream)


def is_terminal(stream: Any) -> bool:
    """Return whether `stream` is a terminal with control sequences; ``None`` is a closed stream."""
    return stream is not None and bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Progress | None]:
    """Show a progress bar on standard error; yield ``None`` if that is not a terminal."""
    if quiet or not is_terminal(sys.stderr):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of downloads, too
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

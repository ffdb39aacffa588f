"""Output: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from converter.system import terminal_width
from converter.text import printable, redact_values, wrap

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


_QUIET = f"{__name__}.quiet"
"""In `click.Context.meta`, which group and command share."""


def set_quiet(ctx: click.Context, param: click.Parameter, quiet: bool) -> None:
    """Print no report and no progress until the command ends, if `quiet`."""
    if quiet:
        ctx.meta[_QUIET] = True


def is_quiet() -> bool:
    """Return whether the running command was called with ``--quiet``."""
    context = click.get_current_context(silent=True)
    return context is not None and _QUIET in context.meta


def show_logs(ctx: click.Context, param: click.Parameter, level: str | None) -> None:
    """Print log records of at least `level` until the command ends."""
    if level is None or ctx.resilient_parsing:
        return
    logger = logging.getLogger("converter")
    shown = any(isinstance(each, _Handler) for each in logger.handlers)
    source = ctx.get_parameter_source(str(param.name))
    if shown and source is click.core.ParameterSource.ENVIRONMENT:
        return  # options take precedence
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


_STYLE = re.compile("(\x1b\\[[0-9;]*m)")
"""What reports have for styles."""
_UNPRINTABLE = re.compile("[^\x00-\x7e]")  # a large range takes 8 ms to compile


@contextmanager
def safe_messages() -> Iterator[None]:
    """Make the warnings and log records of all libraries safe to show, within the block.

    They quote what servers and files say.
    """
    make_record, show = logging.getLogRecordFactory(), warnings.showwarning

    def safe_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        try:
            record.msg, record.args = printable(record.getMessage()), ()
        except Exception:  # wrong arguments, of which the handler would print a traceback
            record.msg, record.args = printable(str(record.msg)), ()
        return record

    def show_safely(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        warn(str(message))

    logging.setLogRecordFactory(safe_record)
    warnings.showwarning = show_safely
    try:
        yield
    finally:
        logging.setLogRecordFactory(make_record)
        warnings.showwarning = show


def print_report(text: str, *, styled: bool = False) -> None:
    """Print a report of what was done, as `print_result` does, unless the command is quiet."""
    if not is_quiet():
        lines = [text] if styled else [wrapped(line, sys.stdout) for line in text.split("\n")]
        print_result("\n".join(lines), styled=styled)


def print_result(text: str, *, styled: bool = False) -> None:
    """Print lines of a result, unprintable characters escaped.

    Those that color `styled` text are kept. Raise OutputError if standard output cannot be written,
    BrokenPipeError if its reader has gone.
    """
    parts = _STYLE.split(text) if styled else [text]
    text = "".join(part if number % 2 else _safe_lines(part) for number, part in enumerate(parts))
    _print_result(text)


def _print_result(text: str) -> None:
    try:
        click.echo(text, nl=not text.endswith("\n"), color=colors(sys.stdout))
    except BrokenPipeError:
        raise
    except OSError as error:
        from converter.errors import OutputError

        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def emit_json(document: Any) -> None:
    """Print the one JSON document of a run, without secrets, unprintable characters escaped."""
    text = json.dumps(redact_values(document), indent=2, ensure_ascii=False)
    _print_result(text if text.isascii() else _UNPRINTABLE.sub(_json_escape, text))


def _json_escape(match: re.Match[str]) -> str:
    char = match[0]
    return char if char.isprintable() else json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f"


def _safe_lines(text: str) -> str:
    return "\n".join(printable(line, limit=sys.maxsize) for line in text.split("\n"))


def print_message(text: str, style: str = "") -> None:
    """Print a message to standard error, if that can be written, in one of the styles.

    On a terminal it is wrapped between words; names, paths and commands stay in one piece.
    """
    text = wrapped(printable(text), sys.stderr)
    head, colon, rest = text.partition(":") if style else ("", "", text)
    styled = click.style(head + colon, **_STYLES[style]) + rest
    try:
        click.echo(styled, err=True, color=colors(sys.stderr))
    except BrokenPipeError:
        raise
    except OSError:
        return


def wrapped(line: str, stream: Any) -> str:
    """Return a line wrapped between words for `stream`, unless that is not a terminal."""
    width = terminal_width(stream)
    return line if width is None else "\n".join(wrap(line, width, keep_words=True))


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
def progress_bar(hidden: bool = False) -> Iterator[Progress | None]:
    """Show a progress bar on standard error, unless the command is quiet.

    Yield ``None`` if there is none: it is `hidden`, or standard error is not a terminal.
    """
    if hidden or is_quiet() or not is_terminal(sys.stderr):
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

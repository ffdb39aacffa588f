"""Error handling: the user gets a message and the right exit code, never a traceback."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from converter.cleanup import EndingSignals
from converter.cli.console import emit_json, print_message, safe_messages

if TYPE_CHECKING:
    from converter.errors import ConverterError

MAX_PROBLEMS = 40
"""Problems that are printed; ``--json`` has all."""

_TRACEBACK = "CONVERTER_TRACEBACK"
_NO_MEMORY = "Error: not enough memory\nTry a smaller --memory or fewer --jobs.\n"


def run_with_error_handling(call: Callable[[EndingSignals], object], json: bool) -> int:
    """Run `call`, print any error, and return the exit code, which `call` may return.

    If `json`, standard output holds a JSON document also when `call` fails. The codes: 0 done,
    1 failed, 2 wrong usage, 130 interrupted by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
    """
    signals = EndingSignals()
    try:
        with signals:
            code = _run(call, json, signals)
    except KeyboardInterrupt:  # between two steps of the error handling
        code = signals.exit_code
    signals.leave_running_threads(code)
    return code


def _run(call: Callable[[EndingSignals], object], json: bool, signals: EndingSignals) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show is not an error
            # In ASCII, which is what Python takes an unknown locale for, click would drop names.
            plain = codecs.lookup(stream.encoding or "utf-8").name == "ascii"
            stream.reconfigure(encoding="utf-8" if plain else None, errors="backslashreplace")
    try:
        with safe_messages():
            code = call(signals)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        return _close_streams()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException as error:
        if os.environ.get(_TRACEBACK):
            import traceback

            for line in traceback.format_exc().splitlines():
                print_message(line)
        try:
            return _report(error, json, signals)
        except BrokenPipeError:
            return _close_streams()
        except MemoryError:  # none is left for a message with a reason
            if sys.stderr is not None:
                sys.stderr.write(_NO_MEMORY)
            return 1


def _report(error: BaseException, json: bool, signals: EndingSignals) -> int:
    """Print an error, and return the exit code."""
    from converter.errors import ConverterError

    if isinstance(error, KeyboardInterrupt | click.Abort):
        print_message(signals.message, style="bold")
        error = ConverterError("interrupted; partial output was removed")
        error.kind, error.exit_code = "interrupted", signals.exit_code
    else:
        if isinstance(error, click.ClickException):
            error = _usage(error)
        elif not isinstance(error, ConverterError):
            error = _unexpected(error)
        print_error(error)
    if json:
        try:
            emit_json(error.to_dict())
        except ConverterError:  # standard output cannot be written
            _close_streams()
    return error.exit_code


def print_error(error: ConverterError) -> None:
    """Print the message of an error, its problems, and the remedy."""
    message, *more = error_lines(error)
    print_message(f"Error: {message}", style="error")
    for line in more:
        print_message(line)


def error_lines(error: ConverterError) -> Iterator[str]:
    """Yield the message of an error, its first problems, and the remedy."""
    yield error.message
    yield from (f"  - {problem}" for problem in error.problems[:MAX_PROBLEMS])
    more = len(error.problems) - MAX_PROBLEMS
    if more > 0:
        yield f"  … and {more} more; --json lists all"
    if error.remedy:
        yield from error.remedy.split("\n")


def _usage(error: click.ClickException) -> ConverterError:
    """Convert an error of the command-line parser."""
    from converter.errors import UsageError

    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else None
    remedy = f"See `{path or 'converter'} --help`."
    return UsageError(error.format_message(), remedy=remedy)


def _unexpected(error: BaseException) -> ConverterError:
    """Convert an error that was not raised on purpose."""
    from converter.errors import ConverterError, resource_error

    name = type(error).__name__
    if lacking := resource_error(error):
        return lacking
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        kind, message = "system", f"{place}{error.strerror}"
        remedy = f"{_TRACEBACK}=1 shows where ({name})."
        if isinstance(error, PermissionError) and place:
            remedy = "Check its permissions, and those of its parent directories."
    else:
        text = " ".join(str(error).split())[:300]
        kind, message = "bug", f"this is a bug in converter: {name}{': ' + text if text else ''}"
        remedy = f"{_TRACEBACK}=1 shows the traceback; please report it with that."
    converted = ConverterError(message, remedy=remedy)
    converted.kind = kind
    return converted


def _close_streams() -> int:
    """Close the streams after their reader has gone (``| head``), so that no flush fails."""
    sys.stdout = sys.stderr = None
    return 1

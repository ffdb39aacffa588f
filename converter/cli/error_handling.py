"""Error handling: the user gets a message and the right exit code, never a traceback."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from converter.cli.console import emit_json, print_message

if TYPE_CHECKING:
    from converter.errors import ConverterError

INTERRUPTED = 130
MAX_PROBLEMS = 40
"""Problems that are printed; ``--json`` has all."""

_TRACEBACK = "CONVERTER_TRACEBACK"


def run_with_error_handling(call: Callable[[], object], json: bool) -> int:
    """Run `call`, print any error, as a JSON document if `json`, and return the exit code.

    That is 0 done, 1 failed, 2 wrong usage, 130 interrupted; or the number that `call` returned.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show is not an error
            # In ASCII, which is what Python takes an unknown locale for, click would drop names.
            plain = codecs.lookup(stream.encoding or "utf-8").name == "ascii"
            stream.reconfigure(encoding="utf-8" if plain else None, errors="backslashreplace")
    try:
        code = call()
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

            traceback.print_exc()
        try:
            return _report(error, json)
        except BrokenPipeError:
            return _close_streams()


def _report(error: BaseException, json: bool) -> int:
    """Print an error, and return the exit code."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        print_message("Interrupted: partial output was removed.", style="bold")
        if json:
            _emit(_document("interrupted", "interrupted; partial output was removed"))
        return INTERRUPTED
    from converter.errors import ConverterError

    if isinstance(error, click.ClickException):
        error = _usage(error)
    if isinstance(error, ConverterError):
        print_error(error)
        if json:
            _emit(error.to_dict())
        return error.exit_code
    kind, message, remedy = _unexpected(error)
    print_error(ConverterError(message, remedy=remedy))
    if json:
        _emit(_document(kind, message, remedy))
    return 1


def print_error(error: ConverterError) -> None:
    """Print the message of an error, its problems, and the remedy."""
    print_message(f"Error: {error.message}", style="error")
    for problem in error.problems[:MAX_PROBLEMS]:
        print_message(f"  - {problem}")
    more = len(error.problems) - MAX_PROBLEMS
    if more > 0:
        print_message(f"  … and {more} more; --json lists all")
    if error.remedy:
        print_message(error.remedy)


def _usage(error: click.ClickException) -> ConverterError:
    """Convert an error of the command-line parser."""
    from converter.errors import UsageError

    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else None
    remedy = f"See `{path or 'converter'} --help`."
    return UsageError(error.format_message(), remedy=remedy)


def _unexpected(error: BaseException) -> tuple[str, str, str | None]:
    """Return kind, message and remedy of an error that was not raised on purpose."""
    name = type(error).__name__
    if isinstance(error, MemoryError):
        return "memory", "not enough memory", "Try a smaller --memory or fewer --jobs."
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        if isinstance(error, PermissionError) and place:
            return (
                "system",
                f"{place}{error.strerror}",
                "Check its permissions, and those of its parent directories.",
            )
        return "system", f"{place}{error.strerror}", f"{_TRACEBACK}=1 shows where ({name})."
    text = " ".join(str(error).split())[:300]
    message = f"this is a bug in converter: {name}{': ' + text if text else ''}"
    return "bug", message, f"{_TRACEBACK}=1 shows the traceback; please report it with that."


def _document(kind: str, message: str, remedy: str | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {"kind": kind, "message": message, "problems": []}
    return {"error": {**body, "remedy": remedy} if remedy else body}


def _emit(document: dict[str, Any]) -> None:
    """Print the document of an error, if standard output can be written."""
    from converter.errors import OutputError

    try:
        emit_json(document)
    except OutputError:
        _close_streams()


def _close_streams() -> int:
    """Close the streams after their reader has gone (``| head``), so that no flush fails."""
    sys.stdout = sys.stderr = None
    return 1

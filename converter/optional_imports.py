"""Optional dependencies, imported where they are used, with a clear error if one is missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from converter.errors import UnsupportedError


def install_hint(extra: str) -> str:
    """Return the command that installs an extra of this package."""
    return f"pip install 'encdec-converter[{extra}]'"


def import_optional(module: str, extra: str, purpose: str) -> Any:
    """Import a module of an optional dependency.

    Args:
        module: its name.
        extra: the extra that installs it.
        purpose: what needs it, for the message.

    Raises:
        UnsupportedError: if it is not installed.

    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise UnsupportedError(
            f"{purpose} needs {error.name}, which is not installed",
            remedy=f"Install it: {install_hint(extra)}.",
        ) from error

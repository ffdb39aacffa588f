"""What is shown depends on where a call comes from; values show themselves in Python.

Their ``repr`` is short, and a notebook shows tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Literal, TypeAlias

Surface: TypeAlias = Literal["python", "command line", "recipe"]
SURFACE: ContextVar[Surface] = ContextVar("surface", default="python")
"""Where the public functions are called from, in this thread."""


@contextmanager
def calls_from(surface: Surface) -> Iterator[None]:
    """Make calls of public functions within the block, in this thread, calls from there."""
    token = SURFACE.set(surface)
    try:
        yield
    finally:
        SURFACE.reset(token)


class Displayed:
    """Base of public values, all of which `converter.notebook` renders.

    That module imports every layer, so that it is named here and imported when a value is shown.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return str(_renderer().text(self))

    def _repr_html_(self) -> str | None:
        """Return what a notebook shows, ``None`` if that is the ``repr``."""
        html: str | None = _renderer().html(self)
        return html


def _renderer() -> Any:
    return import_module("converter.notebook")

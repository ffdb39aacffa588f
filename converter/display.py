"""How public values show themselves in Python: a short ``repr``, and tables in a notebook."""

from __future__ import annotations

from importlib import import_module
from typing import Any


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

"""Progress callbacks of long functions, and the bar that a notebook shows."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

Progress: TypeAlias = Callable[[int, int, str], None]
"""A callback with the bytes done, the total, and the name of the current tensor.

Called by the thread that called the function, from time to time and once at the end. An exception
that it raises cancels the function, which leaves no partial output.
"""

ProgressOption: TypeAlias = Progress | bool | None
"""A callback; true for a bar, false for none, ``None`` for a bar in notebooks alone."""

_DELAY = 0.5
"""Seconds before a bar is shown; what ends before needs none."""


class ProgressCounter:
    """The bytes done in several steps, passed on to a callback.

    The total grows when another step starts.

    Args:
        progress: the callback, if any.

    """

    def __init__(self, progress: ProgressOption) -> None:
        self._progress = callback(progress)
        self._done = self._total = 0

    def start_step(self, nbytes: Mapping[str, int]) -> Callable[[str], None]:
        """Start a step.

        Args:
            nbytes: name → bytes of its work.

        Returns:
            A function to call with each name that is done.

        """
        self._total += sum(nbytes.values())

        def done(name: str) -> None:
            self._done += nbytes[name]
            if self._progress is not None:
                self._progress(self._done, self._total, name)

        return done


def callback(progress: ProgressOption) -> Progress | None:
    """Return the callback, if there is one."""
    return progress if callable(progress) else None


@contextmanager
def show_progress(progress: ProgressOption, title: str, unit: str = "B") -> Iterator[Any]:
    """Yield the callback, or that of a bar of tqdm with a title, if one is asked for."""
    if callable(progress) or not (_in_notebook() if progress is None else progress):
        yield callback(progress)
        return
    with warnings.catch_warnings():  # without ipywidgets, the bar is text
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    bar: Any = None

    def update(done: int, total: int, name: str) -> None:
        nonlocal bar
        if bar is None:
            scale = {"unit_scale": True} if unit == "B" else {}
            bar = tqdm(desc=title, total=total, unit=unit, leave=False, delay=_DELAY, **scale)
        bar.total = total
        bar.update(done - bar.n)

    try:
        yield update
    finally:
        if bar is not None:
            bar.close()


def _in_notebook() -> bool:
    """Return whether the process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel")

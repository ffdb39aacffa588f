"""How a long function tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int, str], None]
"""Bytes done, bytes in all, and the name of a tensor being worked on.

Called by the thread that called the function, now and then and once at the end. What it raises
ends the function, which leaves nothing half-written; so raising is how to cancel.
"""


class ProgressCounter:
    """Counts the bytes of work in several steps, and tells a callback.

    Bytes in all grow when a further step begins.

    Args:
        progress: the callback, if there is one.

    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._done = self._total = 0

    def start_step(self, nbytes: Mapping[str, int]) -> Callable[[str], None]:
        """Begin a step.

        Args:
            nbytes: name → the bytes of its work.

        Returns:
            What is to be called with each name once it is done.

        """
        self._total += sum(nbytes.values())

        def done(name: str) -> None:
            self._done += nbytes[name]
            if self._progress is not None:
                self._progress(self._done, self._total, name)

        return done

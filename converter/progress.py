"""Progress callbacks of long functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int, str], None]
"""A callback with the bytes done, the total, and the name of the current tensor.

Called by the thread that called the function, from time to time and once at the end. An exception
that it raises cancels the function, which leaves no partial output.
"""


class ProgressCounter:
    """The bytes done in several steps, passed on to a callback.

    The total grows when another step starts.

    Args:
        progress: the callback, if any.

    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
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

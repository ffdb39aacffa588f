"""SIGINT, SIGTERM and SIGHUP: each ends a command in the same way, so that nothing is left behind.

They are handled in the command line only, where the process is ours; the Python functions see the
KeyboardInterrupt of Ctrl-C. A signal that was ignored when the command started, as after ``nohup``,
stays ignored.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Self

from converter.interrupts import POOL
from converter.system import ENDING_SIGNALS

_REPEAT_SECONDS = 1.0
"""`timeout` sends its signal twice, and a terminal that is closed sends more than one."""


class EndingSignals:
    """Handlers that raise KeyboardInterrupt in the main thread for the first signal.

    Later signals do not interrupt the cleanup; but after a second, Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        """The first signal."""
        self.deferred = False
        """If true, the first signal is only noted, and Ctrl-C a second later interrupts."""
        self._interrupted = False
        self._time = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        """The exit code of a command that was interrupted: 128 and the number of the signal."""
        return 128 + (self.received or signal.SIGINT)

    @property
    def message(self) -> str:
        """What is printed when a command was interrupted."""
        named = self.received not in (None, signal.SIGINT)
        by = f" by {self.received.name}" if self.received and named else ""
        return f"Interrupted{by}: partial output was removed."

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for each in ENDING_SIGNALS:
                if signal.getsignal(each) not in (signal.SIG_IGN, None):
                    self._previous[each] = signal.signal(each, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for each, handler in self._previous.items():
            signal.signal(each, handler)

    def leave_running_threads(self, code: int) -> None:
        """End the process if an interrupted download from the Hub still runs.

        It cannot be stopped, and Python would wait for it; it left nothing but a file in the Hub's
        cache, with which the next download continues.
        """
        if self.received and any(each.name.startswith(POOL) for each in threading.enumerate()):
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            os._exit(code)

    def _handle(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._time = signal.Signals(number), now
            if self.deferred:
                return
        elif number != signal.SIGINT or now - self._time < _REPEAT_SECONDS:
            return
        elif self._interrupted:
            text = b"Interrupted again: hidden files may remain, which the next run removes.\n"
            os.write(2, text)
            os._exit(self.exit_code)
        self._interrupted, self._time = True, now
        raise KeyboardInterrupt

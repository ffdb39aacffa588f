"""CPU seconds of one command by step: ``python -m benchmarks.sampling FILE compose ...``.

A thread looks at all others every millisecond, and adds the CPU time that each has used since then
to the step that its innermost known function or source line belongs to. Nothing in converter is
replaced, so that the work is what users run; the sampling itself is not counted.
"""

from __future__ import annotations

import json
import linecache
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType

IMPORTS, OTHER, ENDS = "imports", "other Python code", "interpreter, its start and end"
_STEPS = {
    "SHA-256": r"\bdigest\w*\.(hex|update)|sha256[.(]",
    "searching for NaN and infinity": r"count_non_finite",
    "initializing new values": r"^converter\.initializers:|^numpy\.random",
    "transposing": r":_?(permute|transpose|rearrange)\b|\b(permute|_transpose)\(",
    "casting": r"rows:(cast|_round_to_odd)\b|\bcast\(",
    "comparing": r":(same_bits|_equal|compare|_compare)\b",
    "reading": r"\b(read_exactly|read_at|read_into|_fill)\b|^converter\.formats\.(stored|file_h)",
    "writing": r"write_at|write_rows|execution\.file_writer|^converter\.formats\..*writer",
    "manifest and publishing": r"^converter\.(storage\.atomic|planning\.(manifest|model_card))"
    r"|execution\.write_checkpoint|^json\.enc",
    "configurations, tables, headers, plan": r"^converter\.(architectures|models|checkpoint"
    r"|planning|formats|storage|plan|recognition|safe_json)\b|^(tomllib|msgspec|json)\b",
}
"""Step → what ``module:function: source line`` of a frame has; the first step that matches."""
STEPS = (ENDS, IMPORTS, *reversed(_STEPS), OTHER)
_PATTERNS = {step: re.compile(pattern) for step, pattern in _STEPS.items()}
_INTERVAL = 0.001
SHOWN = 0.005
"""CPU seconds below which a step has no row."""


class Sampler:
    """Counts CPU seconds by step, from `start` to `stop`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._known: dict[tuple[CodeType, int], str | None] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        sys.setswitchinterval(_INTERVAL)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        used: dict[int, float] = {}
        while not self._ended.wait(_INTERVAL):
            frames = sys._current_frames()
            for thread in threading.enumerate():
                number = thread.native_id
                if thread is self._thread or number is None:
                    continue
                try:  # the clock of one thread of this process, as Linux numbers them
                    seconds = time.clock_gettime((~number << 3) | 6)
                except OSError:
                    continue  # it has ended
                step = self._step(frames.get(thread.ident or 0))
                self.seconds[step] += seconds - used.get(number, 0.0)
                used[number] = seconds
        self.seconds[ENDS] += time.process_time() - sum(self.seconds.values()) - time.thread_time()

    def _step(self, frame: FrameType | None) -> str:
        """Return the step of the innermost frame that has one, but that of imports if there are."""
        step = None
        while frame is not None:
            at = frame.f_code, frame.f_lineno or 0  # a frame that begins has none
            if at not in self._known:
                self._known[at] = _step_of(frame, at[1])
            if self._known[at] == IMPORTS:
                return IMPORTS
            step = step or self._known[at]
            frame = frame.f_back
        return step or OTHER


def _step_of(frame: FrameType, number: int) -> str | None:
    module, code = frame.f_globals.get("__name__", ""), frame.f_code
    if module.startswith("importlib._bootstrap"):
        return IMPORTS
    line = linecache.getline(code.co_filename, number).strip()
    text = f"{module}:{code.co_qualname}: {line}"
    return next((step for step, pattern in _PATTERNS.items() if pattern.search(text)), None)


def sample(arguments: Sequence[str], directory: Path) -> dict[str, float]:
    """Run one command of converter, and return its CPU seconds by step."""
    times = directory / "times.json"
    command = [sys.executable, "-m", "benchmarks.sampling", str(times), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds: dict[str, float] = json.loads(times.read_text())
    times.unlink()
    return seconds


def main(output: str, *arguments: str) -> None:
    sampler = Sampler()
    sampler.start()
    try:
        from converter.cli import commands

        commands.main(arguments)
    finally:
        sampler.stop()
        Path(output).write_text(json.dumps(sampler.seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Damages checkpoints of one format and reads them, in a process of bounded memory.

By hand, with any number of cases, or a single case again::

    python -m tests.formats.fuzz torch --cases 1000000 --seed 5
    python -m tests.formats.fuzz torch --seed 5 --only 1234

A failing case prints a traceback and its number. The result goes to standard output as JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.formats.valid_files import reads, valid_checkpoints

ADDRESS_SPACE = 1 << 30
"""Bytes that reading may take beyond those of the process at the start."""
RESIDENT = 128 << 20
"""Bytes by which the resident set may grow."""
STUCK = 600
"""Seconds after which a case that waits for something is aborted."""


def main() -> None:
    """Run the cases of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file_format")
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of a single case")
    options = parser.parse_args()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        try:
            checkpoints = valid_checkpoints(options.file_format, Path(directory))
        except ImportError as error:
            print(json.dumps({"missing": error.name}))
            return
        assert all(map(reads, checkpoints))
        bound_memory()
        before, began = _resident(), time.perf_counter()
        numbers = range(options.cases) if options.only is None else [options.only]
        readable, slowest = 0, 0.0
        for number in numbers:
            started = time.process_time()
            signal.alarm(STUCK)
            try:
                seed = f"{options.file_format} {options.seed} {number}"
                readable += checkpoints[number % len(checkpoints)].try_out(seed)
            except BaseException:
                print(f"case {number} of seed {options.seed}", file=sys.stderr)
                raise
            slowest = max(slowest, time.process_time() - started)
        signal.alarm(0)
        grown = _resident() - before
        assert grown < RESIDENT, f"{grown:,} bytes more than before"
        report = {
            "cases": len(numbers),
            "checkpoints": len(checkpoints),
            "readable": readable,
            "slowest_ms": round(slowest * 1000, 1),
            "grown_mb": round(grown / 1e6, 1),
            "seconds": round(time.perf_counter() - began, 1),
        }
        print(json.dumps(report))


def bound_memory() -> None:
    """Make larger allocations fail, and with them the case."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _resident() -> int:
    """Return the peak resident bytes of the process; ``ru_maxrss`` would start at the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("no VmHWM in /proc/self/status")


if __name__ == "__main__":
    main()

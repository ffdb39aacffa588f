"""Spoils checkpoints of one container and reads them, in a process of bounded memory.

By hand, for as long as you like, and a single case again::

    python -m tests.formats.fuzz torch --cases 1000000 --seed 5
    python -m tests.formats.fuzz torch --seed 5 --only 1234

A failing case leaves a traceback and its number. What is found goes to standard output as JSON.
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

from tests.formats.originals import good, originals

ADDRESS_SPACE = 1 << 30
"""Bytes that reading may take beyond what the process has when it begins."""
RESIDENT = 128 << 20
"""Bytes by which the process may really grow."""
STUCK = 600
"""Seconds after which a case that waits for something is aborted."""


def main() -> None:
    """Run the cases that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file_format")
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of a single case")
    wanted = parser.parse_args()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        try:
            found = originals(wanted.file_format, Path(directory))
        except ImportError as error:
            print(json.dumps({"missing": error.name}))
            return
        assert all(good(original.file_format, original) for original in found)
        _bound_memory()
        before, began = _resident(), time.perf_counter()
        numbers = range(wanted.cases) if wanted.only is None else [wanted.only]
        readable, slowest = 0, 0.0
        for number in numbers:
            started = time.process_time()
            signal.alarm(STUCK)
            try:
                seed = f"{wanted.file_format} {wanted.seed} {number}"
                readable += found[number % len(found)].try_out(seed)
            except BaseException:
                print(f"case {number} of seed {wanted.seed}", file=sys.stderr)
                raise
            slowest = max(slowest, time.process_time() - started)
        signal.alarm(0)
        grown = _resident() - before
        assert grown < RESIDENT, f"{grown:,} bytes more than before"
        told = {
            "cases": len(numbers),
            "originals": len(found),
            "readable": readable,
            "slowest_ms": round(slowest * 1000, 1),
            "grown_mb": round(grown / 1e6, 1),
            "seconds": round(time.perf_counter() - began, 1),
        }
        print(json.dumps(told))


def _bound_memory() -> None:
    """Let every larger allocation fail, which the cases then do not survive."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _resident() -> int:
    """Bytes that the process has held at most; ``ru_maxrss`` would begin at the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("the system does not tell")


if __name__ == "__main__":
    main()

"""``python -m benchmarks.tables DIRECTORY``: the tables of ``benchmarks/README.md`` in one run.

Compose next to ``cp -r`` and transformers, CPU seconds by step, verification from the page cache
and from disk. On two idle cores it takes about six minutes, and 12 GB of disk.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from benchmarks import __main__, command, steps, verify


def main() -> None:
    options = command.parser("python -m benchmarks.tables", __doc__)
    options.add_argument("--transformers", type=int, default=1, help="runs of it; 0 for none")
    options.add_argument("--jobs", default="1,2,4,8", help="numbers of threads")
    command.run(options.parse_args(), measure)


def measure(work: Path, options: argparse.Namespace) -> None:
    began = time.monotonic()
    print("## compose\n")
    __main__.measure(work, options)
    for name in ("reference", "out"):
        shutil.rmtree(work / name, ignore_errors=True)
    options.repeat = min(options.repeat, 3)
    print("\n## CPU seconds by step\n")
    steps.measure(work, options)
    for options.cold in (False, True):
        print(f"\n## verify, {'from disk' if options.cold else 'from the page cache'}\n")
        verify.measure(work, options)
    print(f"\nAll took {time.monotonic() - began:.0f} s.")


if __name__ == "__main__":
    main()

"""Common parts of the benchmarks: options, sources and a temporary directory."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SIZES = {"base": (768, 12, 12), "large": (1024, 24, 16), "tiny": (128, 2, 2)}

_MAKE = """
import sys
from pathlib import Path
from benchmarks.checkpoints import Bert
size = Bert(*map(int, sys.argv[4:]))
for name, seed in zip(sys.argv[2:4], (1, 2), strict=True):
    size.write(Path(sys.argv[1]) / name, seed)
"""


def parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the common options."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("directory", type=Path, help="on the disk to measure; must not exist")
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument(
        "--cold", action="store_true", help="drop the files from the page cache first"
    )
    return parser


def run(options: argparse.Namespace, measure: Callable[[Path, argparse.Namespace], None]) -> None:
    """Call `measure` with a new directory, which is removed afterwards."""
    work = options.directory.resolve()
    work.mkdir(parents=True)
    try:
        measure(work, options)
    finally:
        shutil.rmtree(work)


def sources(work: Path, size: str) -> tuple[Path, Path]:
    """Write two random checkpoints, in a separate process so that this one stays small.

    They are kept for further measurements in the same directory.
    """
    names, numbers = ("encoder", "decoder"), [str(number) for number in SIZES[size]]
    if not (work / names[1]).exists():
        subprocess.run([sys.executable, "-c", _MAKE, work, *names, *numbers], check=True)
    return work / names[0], work / names[1]

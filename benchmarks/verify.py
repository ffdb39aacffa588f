"""``python -m benchmarks.verify DIRECTORY``: verify beside reading the same files twice.

Makes two checkpoints of bert-base size in DIRECTORY, composes them for three frameworks, and then
by turns verifies the result and reads its weight files twice with ``cat``: from memory or, with
``--cold``, from the disk at first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.__main__ import MAKE, SIZES
from benchmarks.measure import HEADER, Task, forget, machine

WEIGHTS = ("model.safetensors", "tf_model.h5", "flax_model.msgpack")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verify", description=__doc__)
    parser.add_argument("directory", type=Path, help="on the disk to measure; must not exist")
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--cold", action="store_true", help="drop what is read from memory first")
    options = parser.parse_args()
    work = options.directory.resolve()
    work.mkdir(parents=True)
    try:
        measure(work, options)
    finally:
        shutil.rmtree(work)


def measure(work: Path, options: argparse.Namespace) -> None:
    python, out = sys.executable, work / "out"
    sizes = [str(number) for number in SIZES[options.size]]
    subprocess.run([python, "-c", MAKE, work, "encoder", "decoder", *sizes], check=True)
    sources = [str(work / name) for name in ("encoder", "decoder")]
    command = [python, "-m", "converter"]
    subprocess.run([*command, "compose", *sources, str(out), "--quiet"], check=True)
    files = " ".join(f"'{out / name}'" for name in WEIGHTS)
    read = f"cat {files} >/dev/null; cat {files} >/dev/null"
    against = [part for source in sources for part in ("--against", source)]

    def prepare() -> None:
        if options.cold:
            forget(out)

    tasks = [
        reading := Task("its weight files read twice with `cat`", ["sh", "-c", read], prepare),
        verify := Task("`converter verify`", [*command, "verify", str(out)], prepare),
        Task(
            "`converter verify --against` both sources",
            [*command, "verify", str(out), *against],
            prepare,
        ),
        Task(
            "`converter verify --html`",
            [*command, "verify", str(out), "--html", str(work / "page.html")],
            prepare,
        ),
        Task(
            "`converter diff` of safetensors and HDF5",
            [*command, "diff", str(out / WEIGHTS[0]), str(out / WEIGHTS[1])],
            prepare,
        ),
    ]
    description = machine(work)
    subprocess.run(["sh", "-c", read], check=True)  # into the page cache
    for turn in range(options.repeat):
        for task in tasks if turn % 2 else reversed(tasks):
            task.run(dict(os.environ))
    state = "cold" if options.cold else "warm"
    size = sum((out / name).stat().st_size for name in WEIGHTS)
    print(f"{options.size}, {size / 1e9:.2f} GB in three files, {state}; {description}\n")
    print(HEADER)
    for task in tasks:
        print(task.row())
    print(f"\nverify / reading twice: {verify.median('wall') / reading.median('wall'):.2f}")


if __name__ == "__main__":
    main()

"""``python -m benchmarks.verify DIRECTORY``: verify next to reading the same files once.

Makes two checkpoints of bert-base size in DIRECTORY, composes them for three frameworks, and then
alternately verifies the result and reads its weight files with ``cat``: from the page cache or,
with ``--cold``, from disk. Prints the CPU seconds of a verification by step, too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import command
from benchmarks.measure import HEADER, Task, forget, machine
from benchmarks.sampling import SHOWN, STEPS, sample

WEIGHTS = ("model.safetensors", "tf_model.h5", "flax_model.msgpack")


def main() -> None:
    options = command.parser("python -m benchmarks.verify", __doc__)
    command.run(options.parse_args(), measure)


def measure(work: Path, options: argparse.Namespace) -> None:
    python, out = sys.executable, work / "out"
    sources = [str(source) for source in command.sources(work, options.size)]
    ours = [python, "-m", "converter"]
    compose = [*ours, "compose", *sources, str(out), "--quiet", "--overwrite"]
    subprocess.run(compose, check=True, stderr=subprocess.DEVNULL)
    files = " ".join(f"'{out / name}'" for name in WEIGHTS)
    read = f"cat {files} >/dev/null"
    against = [part for source in sources for part in ("--against", source)]

    def prepare() -> None:
        if options.cold:
            forget(out)

    tasks = [
        reading := Task("reading the weight files with `cat`", ["sh", "-c", read], prepare),
        verify := Task("`converter verify`", [*ours, "verify", str(out)], prepare),
        Task(
            "`converter verify --against` both sources",
            [*ours, "verify", str(out), *against],
            prepare,
        ),
        Task(
            "`converter verify --html`",
            [*ours, "verify", str(out), "--html", str(work / "page.html")],
            prepare,
        ),
        Task(
            "`converter diff` of safetensors and HDF5",
            [*ours, "diff", str(out / WEIGHTS[0]), str(out / WEIGHTS[1])],
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
    print(f"\nverify / reading: {verify.median('wall') / reading.median('wall'):.2f}\n")
    prepare()
    steps = sample(["verify", str(out)], work)
    print("| CPU seconds of `converter verify` | |", "|---|---|", sep="\n")
    for step in STEPS:
        if steps.get(step, 0.0) >= SHOWN:
            print(f"| {step} | {steps[step]:.2f} |")


if __name__ == "__main__":
    main()

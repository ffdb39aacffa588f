"""``python -m benchmarks DIRECTORY``: compose next to ``cp -r`` and transformers.

Makes two checkpoints of bert-base size in DIRECTORY, composes them, and then repeats all tasks in
turn. Each writes into the same directory after the previous output was removed, so that all find
the disk and the page cache in the same state.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks import command
from benchmarks.measure import HEADER, Task, forget, machine


def main() -> None:
    options = command.parser("python -m benchmarks", __doc__)
    options.add_argument(
        "--transformers", type=int, default=1, help="runs of transformers; 0 for none"
    )
    command.run(options.parse_args(), measure)


def measure(work: Path, options: argparse.Namespace) -> None:
    python = sys.executable
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_USE_LEGACY_KERAS": "1",
    }
    encoder, decoder = command.sources(work, options.size)
    reference, out = work / "reference", work / "out"
    compose = [python, "-m", "converter", "compose", str(encoder), str(decoder)]
    compose += ["--init", "normal"]  # as transformers does
    subprocess.run([*compose, str(reference), "--quiet"], check=True, stderr=subprocess.DEVNULL)

    def clean() -> None:
        shutil.rmtree(out, ignore_errors=True)
        if options.cold:
            forget(encoder, decoder, reference)

    # Compose for all three frameworks, and copy the result.
    job = Task("`converter compose`", [*compose, str(out), "--quiet"], clean)
    copy = Task("`cp -r` of its output", ["cp", "-r", str(reference), str(out)], clean)
    inspected = Task(
        "`converter inspect` of the result",
        [python, "-m", "converter", "inspect", str(reference / "model.safetensors"), "--config",
         str(reference / "config.json")],
    )  # fmt: skip
    helped = Task("`converter --help`", [python, "-m", "converter", "--help"])
    script = str(Path(__file__).with_name("with_transformers.py"))
    with_transformers = Task(
        "transformers", [python, script, str(encoder), str(decoder), str(out)], clean
    )
    transformers_runs = options.transformers if find_spec("transformers") else 0
    description = machine(work)
    for turn in range(options.repeat):
        for task in (job, copy) if turn % 2 else (copy, job):
            task.run(environment)
        for task in (inspected, helped):
            task.run(environment)
        if turn < transformers_runs:
            with_transformers.run(environment)
    written = sum(path.stat().st_size for path in reference.iterdir())
    state = "cold" if options.cold else "warm"
    print(f"{options.size}, {written / 1e9:.2f} GB written, sources {state}; {description}\n")
    print(HEADER)
    for task in (job, copy, with_transformers, inspected, helped):
        if task.runs:
            print(task.row())
    print(f"\ncompose / cp -r: {job.median('wall') / copy.median('wall'):.2f}")
    if with_transformers.runs:
        print(
            f"transformers / compose: {with_transformers.median('wall') / job.median('wall'):.1f}"
        )


if __name__ == "__main__":
    main()

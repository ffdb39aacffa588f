"""``python -m benchmarks.steps DIRECTORY``: CPU seconds of compose by step, next to ``cp -r``.

Composes two checkpoints of bert-base size for all frameworks, and for PyTorch alone with and
without hashes, with 1, 2, 4 and 8 threads. Prints a Markdown table of each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import command
from benchmarks.measure import Task, forget, machine
from benchmarks.sampling import SHOWN, STEPS, sample

SETS: dict[str, tuple[str, ...]] = {
    "PyTorch, TensorFlow and Flax": (),
    "PyTorch alone": ("--to", "pytorch"),
    "PyTorch alone, `--no-hash`": ("--to", "pytorch", "--no-hash"),
}


def main() -> None:
    options = command.parser("python -m benchmarks.steps", __doc__)
    options.add_argument("--jobs", default="1,2,4,8", help="numbers of threads")
    options.set_defaults(repeat=3)
    command.run(options.parse_args(), measure)


def measure(work: Path, options: argparse.Namespace) -> None:
    sources = command.sources(work, options.size)
    print(f"{options.size}; {machine(work)}")
    for title, arguments in SETS.items():
        reference, out = work / "reference", work / "out"
        line = ["compose", *map(str, sources), str(out), *arguments]
        line += ["--init", "normal", "--quiet", "--jobs"]

        def clean(out: Path = out) -> None:
            shutil.rmtree(out, ignore_errors=True)
            if options.cold:
                forget(*sources)

        tasks, steps = [], []
        for jobs in str(options.jobs).split(","):
            clean()
            steps.append(sample([*line, jobs], work))
            if not reference.exists():
                shutil.copytree(out, reference)
            tasks.append(Task(jobs, [sys.executable, "-m", "converter", *line, jobs], clean))
        copy = Task("`cp -r`", ["cp", "-r", str(reference), str(out)], clean)
        for turn in range(options.repeat):
            for task in [*tasks, copy] if turn % 2 else [copy, *reversed(tasks)]:
                task.run({**os.environ})
        size = sum(path.stat().st_size for path in reference.iterdir()) / 1e9
        print(f"\n{title}, {size:.2f} GB written:\n")
        print(table(tasks, steps, copy))
        shutil.rmtree(reference)
        clean()


def table(tasks: Sequence[Task], steps: Sequence[dict[str, float]], copy: Task) -> str:
    """Return the Markdown table of one set of runs: a column for each number of threads."""
    names = [f"{task.name} thread{'s' * (task.name != '1')}" for task in tasks]
    rows = [["CPU seconds", *names, copy.name], ["---"] * (len(names) + 2)]
    for step in STEPS:
        numbers = [each.get(step, 0.0) for each in steps]
        if max(numbers) >= SHOWN:
            rows.append([step, *(f"{number:.2f}" for number in numbers), ""])
    rows.append(["sum", *(f"{sum(each.values()):.2f}" for each in steps), ""])
    every = [*tasks, copy]
    rows.append(["CPU seconds, not sampled", *(f"{each.median('cpu'):.2f}" for each in every)])
    rows.append(["wall seconds, not sampled", *(f"{each.median('wall'):.2f}" for each in every)])
    times = [f"{each.median('wall') / copy.median('wall'):.2f}" for each in every]
    rows.append(["times `cp -r`", *times])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()

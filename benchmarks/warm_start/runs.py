"""The runs that are compared: what each depends on, where its result is, and their execution."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.warm_start import papers, report, setups
from benchmarks.warm_start.setups import Setup


@dataclass(frozen=True)
class Budget:
    """The same for all setups. The learning rate was chosen for rnd2rnd on another seed."""

    steps: int
    evaluate_every: int
    batch: int = 16
    rate: float = 5e-4
    warmup: int = 30
    held_out: int = 96
    """Pairs for the loss."""
    generated: int = 96
    """Pairs for the scores of generated text."""


BUDGETS = {
    "restore": Budget(steps=400, evaluate_every=40),
    "summarize": Budget(steps=60, evaluate_every=10, warmup=15),
}
SOURCE = "minilm"
"""Name of the checkpoint that all models start from, in the directory of the runs."""
QUICK = Budget(steps=2, evaluate_every=1, batch=4, held_out=8, generated=4)


@dataclass(frozen=True)
class Run:
    """One model that is composed and trained."""

    task: str
    name: str
    setup: Setup
    budget: Budget
    seed: int

    @property
    def settings(self) -> dict[str, object]:
        """Return all that the result depends on."""
        own = {"seed": self.seed, "task": self.task}
        return {**asdict(self.setup), **asdict(self.budget), **own}

    def result(self, work: Path) -> Path:
        """Return the path of the result."""
        return report.path_of(work, self.task, self.name, self.seed)

    def is_finished(self, work: Path) -> bool:
        """Return whether there is a result of the same settings."""
        path = self.result(work)
        return path.exists() and json.loads(path.read_text())["settings"] == self.settings

    def execute(self, work: Path, task: papers.Task) -> None:
        """Compose, train and write the result, which is there in full or not at all."""
        from benchmarks.warm_start.training import train  # imports torch

        began = time.perf_counter()
        result = self.result(work)
        result.parent.mkdir(parents=True, exist_ok=True)
        model = result.with_suffix(".model")
        self.setup.compose(work / SOURCE, model, self.seed)
        measured = train(model, task, self.budget, self.seed)
        shutil.rmtree(model)
        seconds = round(time.perf_counter() - began, 1)
        partial = result.with_suffix(".partial")
        partial.write_text(json.dumps({"settings": self.settings, "seconds": seconds, **measured}))
        partial.rename(result)


_PARTS: tuple[tuple[float, str, Mapping[str, Setup]], ...] = (
    (0.0, "restore", setups.PRESETS),
    (1.1, "restore", setups.RULES),
    (1.15, "restore", setups.STRANGERS),
    (1.2, "restore", setups.DEPTHS),
    (1.3, "summarize", setups.PRESETS),
)
"""The round in which the first seed of a part is run; each further seed follows a round later."""


def planned(budgets: dict[str, Budget], seeds: int) -> Iterator[Run]:
    """Yield the runs, those that answer the most first: a run may be ended early.

    Rules and numbers of layers are compared on the first task only.
    """
    rounds = [
        (first + seed, seed, (task, group))
        for first, task, group in _PARTS
        for seed in range(seeds)
    ]
    for _, seed, (task, group) in sorted(rounds, key=lambda each: each[:2]):
        for name, setup in group.items():
            yield Run(task, name, setup, budgets[task], seed)


def execute(runs: Iterable[Run], work: Path, tasks: dict[str, papers.Task], processes: int) -> None:
    """Execute the runs that have no result yet, several at once, each in one thread.

    Sums do not depend on the number of processors then.
    """
    open_runs = [run for run in runs if not run.is_finished(work)]
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawning, _start) as pool:
        futures = {pool.submit(run.execute, work, tasks[run.task]): run for run in open_runs}
        for number, future in enumerate(as_completed(futures), 1):
            future.result()
            run = futures[future]
            line = f"[{number}/{len(open_runs)}] {run.task}: {run.name}, seed {run.seed}"
            print(line, file=sys.stderr, flush=True)


def _start() -> None:
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")

"""The benchmark of CPU seconds by step: all of a command's time, and the steps that it has."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import Run, Task
from benchmarks.sampling import IMPORTS, OTHER, STEPS, sample
from benchmarks.steps import table
from tests.factories import make


def test_the_steps_of_a_command_are_sampled(tmp_path: Path) -> None:
    both = [str(make(tmp_path / name, "bert").directory) for name in ("encoder", "decoder")]
    seconds = sample(["compose", *both, str(tmp_path / "out"), "--quiet"], tmp_path)
    assert {*seconds} <= {*STEPS}
    assert 0 < seconds[IMPORTS] < sum(seconds.values())
    assert seconds.get(OTHER, 0.0) < sum(seconds.values()) / 4, seconds


def test_the_table_has_a_column_for_each_number_of_threads() -> None:
    tasks = [Task("1", [], runs=[Run(2.0, 1.5, 1)]), Task("2", [], runs=[Run(1.0, 1.6, 1)])]
    copy = Task("`cp -r`", [], runs=[Run(0.5, 0.4, 1)])
    rows = table(tasks, [{"SHA-256": 0.5, "reading": 0.001}, {"SHA-256": 0.6}], copy).splitlines()
    assert rows[0] == "| CPU seconds | 1 thread | 2 threads | `cp -r` |"
    assert "| SHA-256 | 0.50 | 0.60 |  |" in rows
    assert not any(row.startswith("| reading") for row in rows)
    assert rows[-1] == "| times `cp -r` | 4.00 | 2.00 | 1.00 |"

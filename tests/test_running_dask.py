"""Recipes on a cluster: the same results as by threads, also when a worker dies."""

from __future__ import annotations

import builtins
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from converter.errors import ConverterError, UnsupportedError, UsageError
from converter.recipes import running
from converter.recipes.cluster import Dask, anchored
from converter.recipes.outcome import Interrupted, Outcome, Summary
from converter.recipes.reading import Job
from converter.recipes.running import run
from tests import fifty
from tests.test_startup import FRAMEWORKS


def contents(directory: str) -> dict[str, bytes]:
    home = Path(directory)
    files = {str(path.relative_to(home)): path for path in home.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items()}


def bare(summary: Summary) -> dict[str, Any]:
    """A summary without times."""
    told = summary.to_dict()
    for outcome in told["jobs"].values():
        del outcome["seconds"]
    return told


def modules() -> tuple[int, set[str]]:
    """Of a worker: its process, and the packages that it has imported."""
    return os.getpid(), {name.partition(".")[0] for name in sys.modules}


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Dask]:
    """The clusters that are started."""
    found: list[Dask] = []
    start = Dask.__enter__

    def noted(self: Dask) -> Dask:
        found.append(self)
        return start(self)

    monkeypatch.setattr(Dask, "__enter__", noted)
    return found


def test_fifty_recipes_and_a_worker_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engines: list[Dask]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipes = fifty.write()
    local = run(*recipes, jobs=2, keep_going=True)
    Path("made").rename("local")
    imported: set[str] = set()
    ended: list[str] = []

    def told(outcome: Outcome) -> None:
        ended.append(outcome.status)
        if ended.count("done") != 20:
            return
        client = engines[0]._client
        found = client.run(modules)
        assert len(found) == 2
        imported.update(*(names for _, names in found.values()))
        busy = [address for address, keys in client.processing().items() if keys]
        os.kill(found[busy[0]][0], signal.SIGKILL)

    summary = run(*recipes, jobs=2, keep_going=True, engine="dask", told=told)
    assert bare(summary) == bare(local)
    assert {o.job.name for o in summary.outcomes if o.status == "failed"} == fifty.FAULTS.keys()
    assert summary.count("done") == 47
    assert contents("made") == contents("local")
    assert not [name for name in os.listdir("made") if name.startswith(".")]  # noqa: PTH208
    assert "numpy" in imported
    assert not FRAMEWORKS & imported
    fifty.mend()
    again = run(*recipes, keep_going=True, jobs=2, engine="dask")
    assert {o.job.name for o in again.outcomes if o.status == "done"} == fifty.FAULTS.keys()
    assert again.count("skipped") == 47
    with pytest.raises(Interrupted) as caught:
        run(*recipes, variables={}, jobs=2, engine="dask", stopped=iter_after(3))
    assert caught.value.summary.count("failed") == 0


def iter_after(asked: int) -> Any:
    counted = iter(range(asked))
    return lambda: next(counted, None) is None

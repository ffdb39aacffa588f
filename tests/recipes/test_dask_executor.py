"""Recipes on a cluster: the same results as by threads, also when a worker dies."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distributed
import pytest
import yaml
from click.testing import CliRunner

from converter.cli import commands
from converter.errors import ConverterError, Problem, UsageError
from converter.recipes import dask_executor
from converter.recipes.dask_executor import DaskExecutor, with_absolute_paths
from converter.recipes.job import JobResult, RunSummary
from converter.recipes.parser import Job
from converter.recipes.scheduler import run
from tests import factories
from tests.cli.test_startup import FRAMEWORKS
from tests.recipes import fifty

pytestmark = pytest.mark.slow


def contents(directory: str) -> dict[str, bytes]:
    home = Path(directory)
    files = {str(path.relative_to(home)): path for path in home.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items()}


def bare(summary: RunSummary) -> dict[str, Any]:
    """Return a summary without times."""
    printed = summary.to_dict()
    for outcome in printed["jobs"].values():
        del outcome["seconds"]
    return printed


def modules() -> tuple[int, set[str]]:
    """Return a worker's process id and its imported packages."""
    return os.getpid(), {name.partition(".")[0] for name in sys.modules}


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[DaskExecutor]:
    """Return the clusters that are started."""
    actual: list[DaskExecutor] = []
    start = DaskExecutor.__enter__

    def noted(self: DaskExecutor) -> DaskExecutor:
        actual.append(self)
        return start(self)

    monkeypatch.setattr(DaskExecutor, "__enter__", noted)
    return actual


def test_fifty_recipes_and_a_worker_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engines: list[DaskExecutor]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipes = fifty.write(60_000)
    local = run(recipes, jobs=2, keep_going=True)
    Path("made").rename("local")
    imported: set[str] = set()
    killed: list[int] = []

    def progress(ended: int, total: int, names: str) -> None:
        if killed or fifty.BIG not in names:
            return
        client = engines[0]._client
        actual = client.run(modules)
        assert len(actual) == 2
        imported.update(*(names for _, names in actual.values()))
        deadline = time.monotonic() + 60
        while not list(Path("made").glob(f".{fifty.BIG}.partial-*/*.h5")):
            assert not Path("made", fifty.BIG).exists(), "it was too quick"
            assert time.monotonic() < deadline
        busy = client.processing().items()
        (worker,) = (at for at, keys in busy if any(fifty.BIG in key for key in keys))
        os.kill(actual[worker][0], signal.SIGKILL)
        killed.append(ended)

    summary = run(recipes, jobs=2, keep_going=True, engine="dask", progress=progress)
    assert 10 < killed[0] < 40
    assert bare(summary) == bare(local)
    assert {o.job.name for o in summary.results if o.status == "failed"} == fifty.FAULTS.keys()
    assert summary.count("done") == 47
    assert contents("made") == contents("local")
    assert not [name for name in os.listdir("made") if name.startswith(".")]  # noqa: PTH208
    assert "numpy" in imported
    assert not FRAMEWORKS & imported
    fifty.repair()
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as other:
        address = other.scheduler_address
        again = run(recipes, keep_going=True, engine="dask", scheduler=address)
    assert {o.job.name for o in again.results if o.status == "done"} == fifty.FAULTS.keys()
    assert again.count("skipped") == 47


def test_an_interrupted_run_on_a_cluster(tmp_path: Path) -> None:
    factories.make(tmp_path / "bert", "bert", vocab_size=40_000, hidden_size=256)
    jobs = [{"convert": {"source": "bert", "output": f"made/{n}"}} for n in range(9)]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"jobs": jobs}))
    command = "converter run r.yaml --engine dask --jobs 1 --summary s.json"
    process = subprocess.Popen(
        [sys.executable, "-m", *command.split()],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )
    assert process.stderr
    process.stderr.readline()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it, too
    printed = process.stderr.read()
    assert process.wait() == 130
    assert printed.endswith("Interrupted: partial output was removed.\n")
    assert "Traceback" not in printed
    counts = json.loads((tmp_path / "s.json").read_text())["counts"]
    assert counts["done"] >= 1
    assert counts["not started"] > 3
    assert counts["failed"] == 0
    assert len(list((tmp_path / "made").iterdir())) == counts["done"]


def test_a_job_that_kills_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    death = distributed.KilledWorker("key", "tcp://1.2.3.4:5", 4)
    future = SimpleNamespace(status="error", exception=lambda: death)
    actual = DaskExecutor(1, None)._result(Job("big", "convert", {}, None), future)
    assert actual.status == "failed"
    assert "big: every worker that ran it died, the last at tcp://1.2.3.4:5" in str(actual.error)


def test_relative_paths_become_absolute_for_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here/bert").mkdir(parents=True)
    options: dict[str, Any] = {
        "encoder": "here/bert",
        "decoder": "org/gpt2@main",
        "output": "org/both",
        "mapping": ["own.toml", "/etc/own.toml"],
        "card": "card.md",
        "init": "normal",
    }
    assert with_absolute_paths(Job("both", "compose", options, None)).options == {
        "encoder": f"{tmp_path}/here/bert",
        "decoder": "org/gpt2@main",
        "output": f"{tmp_path}/org/both",
        "mapping": [f"{tmp_path}/own.toml", "/etc/own.toml"],
        "card": f"{tmp_path}/card.md",
        "init": "normal",
    }


def test_errors_of_a_job_are_pickled_completely() -> None:
    error = UsageError("no", [Problem("is wrong", "file", "tensor", "a", "b", "c")], "do this")
    again = pickle.loads(
        pickle.dumps(JobResult(Job("a", "convert", {}, None), "failed", 1.0, error))
    )
    assert again.error.to_dict() == error.to_dict()
    assert type(again.error) is UsageError


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    factories.make(Path("bert"), "bert")
    Path("r.yaml").write_text("jobs: [{convert: {source: bert, output: out}}]")
    monkeypatch.setattr(dask_executor, "_CONNECT_SECONDS", 1)
    return "r.yaml"


def test_a_scheduler_that_does_not_answer(recipe: str) -> None:
    with pytest.raises(ConverterError, match=r"127\.0\.0\.1:9: cannot be reached"):
        run(recipe, engine="dask", scheduler="tcp://127.0.0.1:9")


def test_a_scheduler_without_workers(recipe: str) -> None:
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None) as empty,
        pytest.raises(ConverterError, match="has no workers"),
    ):
        run(recipe, engine="dask", scheduler=empty.scheduler_address)


def test_without_the_extra(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = CliRunner().invoke(commands, ["run", recipe, "--engine", "dask"])
    assert result.exit_code == 1
    assert 'pip install "encdec-converter[dask]"' in result.stderr
    assert not Path("out").exists()


def test_contradicting_options(recipe: str) -> None:
    wrong: list[dict[str, Any]] = [{"scheduler": "tcp://a:1"}, {"engine": "ray"}]
    for options in wrong:
        with pytest.raises(UsageError):
            run(recipe, **options)
    with pytest.raises(UsageError, match="the scheduler's own workers decide"):
        run(recipe, engine="dask", scheduler="tcp://a:1", jobs=2)

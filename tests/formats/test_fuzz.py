"""Damaged checkpoints of every format are refused or read: see `fuzz.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from converter.formats.registry import FORMATS

CASES = int(os.environ.get("FUZZ_CASES", "1000"))
"""Damaged files per format; CI runs 20,000."""
SEED = int(os.environ.get("FUZZ_SEED", "0"))

ROOT = Path(__file__).parents[2]

Runs = dict[str, "Future[subprocess.CompletedProcess[str]]"]


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    """Run a process for each format, as many at once as there are processors."""

    def run(name: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "tests.formats.fuzz",
            name,
            "--cases",
            str(CASES),
            "--seed",
            str(SEED),
        ]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(run, name) for name in FORMATS}


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_checkpoints_are_refused_or_read(runs: Runs, name: str) -> None:
    run = runs[name].result()
    assert run.returncode == 0, run.stderr[-4000:]
    report = json.loads(run.stdout)
    if "missing" in report:
        pytest.skip(f"{report['missing']} is not installed")
    print(name, report)
    assert report["cases"] == CASES
    assert 0 < report["readable"] < CASES

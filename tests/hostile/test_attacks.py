"""Hundreds of crafted weight files are refused by every command: see `attacks.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.attacks import KINDS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PARTS = {
    **{"hdf5-chunks": 4, "torch-bombs": 16, "torch-zip": 4, "torch-recursion": 4, "orbax": 4},
    **{"unknown": 8, "recipes": 8, "configurations": 8, "links": 4, "special-files": 4},
    **{"tensorflow": 3, "safetensors": 2, "msgpack": 2, "torch-legacy": 2},
}
"""Kinds of which plain `pytest` runs a part; ``ATTACKS=all`` runs all."""


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory by /proc")
@pytest.mark.parametrize("kind", KINDS)
def test_every_attack_is_refused_in_little_time_and_memory(kind: str) -> None:
    if kind == "orbax":
        pytest.importorskip("tensorstore")
    parts = 1 if os.environ.get("ATTACKS") == "all" else PARTS.get(kind, 1)
    command = [sys.executable, "-m", "tests.hostile.attacks", kind, "--part", f"0/{parts}"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-4000:]
    report = json.loads(run.stdout)
    assert report["attacks"] * parts >= 60
    assert not report["failures"], run.stderr[-8000:]

"""Environment of every test process, and what the quick tests leave out.

``pytest -m "not peer"`` is what a contributor runs before each commit. Tests that are marked
``slow`` are left out of it, too, and modules whose tests are all marked ``peer`` are not even
imported, since importing the frameworks takes longer than most packages' tests.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

_ALL_PEER = "\npytestmark = pytest.mark.peer\n"


def _expression(config: pytest.Config) -> str:
    return str(config.getoption("markexpr"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the import of modules that the quick tests would deselect completely."""
    if collection_path.suffix == ".py" and "not peer" in _expression(config):
        return _ALL_PEER in collection_path.read_text("utf-8") or None
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect slow tests from the quick ones, unless the expression mentions them."""
    expression = _expression(config)
    if "not peer" not in expression or "slow" in expression:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]

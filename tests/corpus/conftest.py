"""The frameworks stay quiet, off-line and on the processor."""

from __future__ import annotations

import os
import warnings

import pytest

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    warnings.filterwarnings("ignore")


@pytest.fixture
def unoptimised() -> None:
    """Let JAX compile quickly rather than well; most of the time goes into it."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_disable_most_optimizations", True)

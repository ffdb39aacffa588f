"""The frameworks stay quiet, off-line and on the processor."""

from __future__ import annotations

import warnings

import pytest


@pytest.fixture(autouse=True)
def _quiet() -> None:
    warnings.filterwarnings("ignore")


@pytest.fixture
def unoptimized() -> None:
    """Let JAX compile quickly rather than well; most of the time goes into it."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_disable_most_optimizations", True)

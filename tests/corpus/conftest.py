"""Shared fixtures: the frameworks without warnings and with fast compilation."""

from __future__ import annotations

import warnings

import pytest


@pytest.fixture(autouse=True)
def _quiet() -> None:
    warnings.filterwarnings("ignore")


@pytest.fixture
def unoptimized() -> None:
    """Disable most optimizations of JAX, whose compilation takes most of the time."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_disable_most_optimizations", True)

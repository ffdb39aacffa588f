"""Shared fixtures: the frameworks and checkpoints saved by transformers, each once a session."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transformers.source_cache import SourceCache
from tests.transformers.transformers_5 import Transformers5, start_transformers_5


@pytest.fixture(scope="session", autouse=True)
def _frameworks() -> None:
    """Import all frameworks once, or skip all tests of this package with the reason."""
    for name in ("torch", "tensorflow", "flax", "transformers"):
        pytest.importorskip(name)
    import jax
    import torch
    import transformers

    jax.config.update("jax_disable_most_optimizations", True)  # most of the time goes to compiling

    torch.set_num_threads(1)  # tests run side by side
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")


@pytest.fixture(scope="session")
def source_cache(tmp_path_factory: pytest.TempPathFactory) -> SourceCache:
    """Return the cache of checkpoints saved by transformers."""
    return SourceCache(Path(tmp_path_factory.mktemp("sources")))


@pytest.fixture(scope="session")
def transformers_5() -> Iterator[Transformers5]:
    """Start transformers 5 on first use."""
    with start_transformers_5() as running:
        yield running

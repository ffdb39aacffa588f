"""Shared fixtures: valid checkpoints in every format, each made once."""

from __future__ import annotations

from pathlib import Path

import pytest

import converter
from tests import factories


@pytest.fixture(scope="package")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make an encoder and a decoder."""
    root = tmp_path_factory.mktemp("proof")
    bert = factories.make(root / "bert", "bert").directory
    gpt2 = factories.make(root / "gpt2", "gpt2", "GPT2LMHeadModel").directory
    return bert, gpt2


@pytest.fixture(scope="package")
def sound(sources: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compose both, in all four formats."""
    out = tmp_path_factory.mktemp("sound") / "both"
    converter.compose(*sources, out, pytorch_format="both")
    return out


@pytest.fixture(scope="package")
def sharded(sources: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compose both, every file in shards."""
    out = tmp_path_factory.mktemp("sharded") / "both"
    converter.compose(*sources, out, pytorch_format="both", max_shard_size=40_000)
    return out

"""What TensorFlow's and Flax's own classes save becomes a PyTorch checkpoint with equal outputs.

A sample; ``python -m tests.transformers.rescue`` runs every class.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.transformers.rescue import (
    SavedClass,
    existing_classes,
    listed_classes,
    rescue,
    sample,
    verdict,
)
from tests.transformers.transformers_5 import Transformers5

pytestmark = pytest.mark.peer


def test_the_list_has_every_class_of_transformers() -> None:
    listed = [(saved.folder, saved.name) for saved in listed_classes()]
    existing = existing_classes()
    assert listed == [(folder, name) for folder, names in existing.items() for name in names]


@pytest.mark.parametrize("saved", sample(), ids=lambda saved: saved.name)
def test_a_saved_model_becomes_a_pytorch_checkpoint(
    tmp_path: Path, transformers_5: Transformers5, saved: SavedClass
) -> None:
    result = rescue(saved, tmp_path, transformers_5)
    assert not result.problems, verdict(saved, result)[1]

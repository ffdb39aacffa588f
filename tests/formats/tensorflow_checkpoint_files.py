"""TensorFlow checkpoints of one tensor `W`, and the expected refusal of invalid ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import CheckpointError
from converter.formats.registry import open_file
from tests.formats.tensorflow_checkpoints import HEADER, entry, write_parts
from tests.formats.work import work_at_most

FLOAT, STRING, HALF = 1, 7, 19
W = np.arange(12, dtype=np.float32).reshape(3, 4)


def index(
    path: Path, *entries: tuple[bytes, bytes], header: bytes = HEADER, data: Any = None
) -> Path:
    """Write an index of entries after a header, with data files that hold `W`."""
    write_parts(path / "m.index", [(b"", header), *entries], data or [W.tobytes()])
    return path / "m.index"


def one(shape: tuple[int, ...] = (3, 4), dtype: int = FLOAT, **where: Any) -> tuple[bytes, bytes]:
    return b"w", entry(dtype, shape, **{"size": 48, **where})


def refused(path: Path, *parts: str) -> None:
    """Assert that opening the file gives one clear error, quickly."""
    with work_at_most(40), pytest.raises(CheckpointError) as caught, open_file(path):
        pass
    for part in (str(path), *parts):
        assert part in str(caught.value)

"""Reading what was written, by canonical names, whatever the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from converter.checkpoint.opening import open_files
from converter.execution.rows import BufferPool, StoredTensorReader
from converter.models.model import resolve_model
from tests.factories import bundled_registry

FILES = ("model.safetensors", "tf_model.h5", "flax_model.msgpack")


def values(path: Path) -> dict[str, Any]:
    """Canonical name → values in PyTorch's layout, of a directory's or a file's model."""
    with open_files(path) as checkpoint:
        found = {}
        for name, stored in resolve_model(checkpoint, bundled_registry()).key_match.matched.items():
            rows = StoredTensorReader(stored)
            shape = stored.rearrangement.shape(stored.tensor.spec.shape)
            whole = [length for length in shape if length != 1]
            _, array = rows.read(0, whole[0] if whole else 1, BufferPool(1 << 24), "raw")
            found[name] = np.array(array).reshape(shape)
        return found


def config_of(directory: Path) -> dict[str, Any]:
    """``config.json``."""
    loaded: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return loaded


def manifest_of(directory: Path) -> dict[str, Any]:
    """``converter-manifest.json``."""
    loaded: dict[str, Any] = json.loads((directory / "converter-manifest.json").read_text())
    return loaded

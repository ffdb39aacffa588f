"""A checkpoint that computes the same, with its hidden dimensions in another order.

Two checkpoints that were pretrained apart have no dimension in common, even of the same
architecture and data. A permutation makes such a stranger out of a model without losing anything:
the outputs are those of the model, permuted.
"""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

_AXES = {
    "embeddings.*_embeddings.weight": -1,
    "*LayerNorm.*": 0,
    "*.attention.self.*.weight": 1,
    "*.intermediate.dense.weight": 1,
    "*output.dense.*": 0,
    "pooler.dense.weight": 1,
}
"""Tensors of BERT with an axis of the hidden dimension, and the axis."""


def permute(source: Path, output: Path, seed: int) -> None:
    """Write a BERT checkpoint with the hidden dimensions in an order that depends on a seed."""
    shutil.copytree(source, output)
    tensors = load_file(source / "model.safetensors")
    moved = order(tensors["embeddings.LayerNorm.weight"].size, seed)
    for name, tensor in tensors.items():
        for pattern, axis in _AXES.items():
            if fnmatch.fnmatchcase(name, pattern):
                tensors[name] = np.ascontiguousarray(tensor.take(moved, axis))
    save_file(tensors, output / "model.safetensors", {"format": "pt"})


def order(width: int, seed: int) -> list[int]:
    """Return the former place of each dimension."""
    return [int(place) for place in np.random.default_rng(seed).permutation(width)]

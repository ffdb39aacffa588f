"""Checkpoints opened from Python: a mapping of lazy tensors, and what each framework loads."""

from __future__ import annotations

from converter.frameworks.keras_weights import KerasWeights
from converter.frameworks.lazy_tensor import LazyTensor
from converter.frameworks.opened_checkpoint import OpenedCheckpoint, open_checkpoint

__all__ = ["KerasWeights", "LazyTensor", "OpenedCheckpoint", "open_checkpoint"]

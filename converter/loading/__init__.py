"""Checkpoints opened from Python: a mapping of lazy tensors, and what each framework loads."""

from __future__ import annotations

from converter.loading.keras import KerasWeights
from converter.loading.lazy import LazyTensor
from converter.loading.opened import OpenedCheckpoint, open_checkpoint

__all__ = ["KerasWeights", "LazyTensor", "OpenedCheckpoint", "open_checkpoint"]

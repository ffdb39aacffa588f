"""Working memory that a thread uses again and again.

A fresh array of 16 MB costs 4,096 page faults, more than copying into it does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from converter.containers.base import Array


class Scratch:
    """Named buffers, each of the size of a block or of the largest array asked of it."""

    def __init__(self, block: int) -> None:
        self._block = block
        self._buffers: dict[str, Array] = {}

    def array(self, slot: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """An uninitialised C-contiguous array, valid until the slot is asked for again."""
        nbytes = math.prod(shape) * dtype.itemsize
        buffer = self._buffers.get(slot)
        if buffer is None or buffer.nbytes < nbytes:
            self._buffers.pop(slot, None)
            buffer = self._buffers[slot] = np.empty(max(nbytes, self._block), np.uint8)
        return buffer[:nbytes].view(dtype).reshape(shape)

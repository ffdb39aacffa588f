"""The least, largest and mean value of a tensor, its deviation, and a sample of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.containers.base import Array
from converter.engine.numbers import cast
from converter.engine.rows import StoredRows
from converter.engine.scratch import Scratch
from converter.plan import Stored
from converter.proof.comparison import blocks, ranges, scratch_of_thread

_CHUNK = 1 << 16
"""Elements turned into float64 at once."""


@dataclass(frozen=True)
class Statistics:
    """Of the finite values of one or more tensors, in float64."""

    count: int
    """Finite values."""
    minimum: float
    maximum: float
    mean: float
    deviation: float
    """The standard deviation, of the values as they are (not an estimate from a sample)."""
    broken: int = 0
    """Values that are infinite or not a number."""

    def __add__(self, other: Statistics) -> Statistics:
        """Of the values of both (Chan, Golub and LeVeque 1979)."""
        if not self.count or not other.count:
            kept = self if self.count else other
            broken = self.broken + other.broken
            return Statistics(
                kept.count, kept.minimum, kept.maximum, kept.mean, kept.deviation, broken
            )
        count = self.count + other.count
        apart = other.mean - self.mean
        squares = self.count * self.deviation**2 + other.count * other.deviation**2
        squares += apart**2 * self.count * other.count / count
        return Statistics(
            count,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            self.mean + apart * other.count / count,
            math.sqrt(squares / count),
            self.broken + other.broken,
        )

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it; null where there is no finite value."""
        known = self.count > 0
        return {
            "min": self.minimum if known else None,
            "max": self.maximum if known else None,
            "mean": self.mean if known else None,
            "std": self.deviation if known else None,
            "not_finite": self.broken,
        }


NOTHING = Statistics(0, math.inf, -math.inf, 0.0, 0.0)


def measure(stored: Stored) -> Statistics:
    """The statistics of a stored tensor, read block by block.

    Raises:
        CheckpointError: if it cannot be read.
    """
    total = NOTHING
    for block in blocks(stored, scratch_of_thread(), "block"):
        flat = block.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            total += _of(flat[start : start + _CHUNK])
    return total


def _of(values: Array) -> Statistics:
    wide = np.empty(values.shape, np.float64)
    cast(np.abs(values) if values.dtype.kind == "c" else values, wide)
    finite = wide if np.isfinite(wide.sum()) else wide[np.isfinite(wide)]
    broken = wide.size - finite.size
    if not finite.size:
        return Statistics(0, math.inf, -math.inf, 0.0, 0.0, broken)
    mean = float(finite.mean())
    deviation = math.sqrt(float(np.square(finite - mean).mean()))
    return Statistics(
        finite.size, float(finite.min()), float(finite.max()), mean, deviation, broken
    )


def sample(stored: Stored, count: int = 20_000) -> Array:
    """About `count` finite values as float32, from rows spread evenly; all if there are fewer.

    Raises:
        CheckpointError: if it cannot be read.
    """
    rows, scratch = StoredRows(stored), Scratch(0)
    spans = list(ranges(stored))
    last = spans[-1][1] if spans else 0
    width = max(1, stored.tensor.spec.size // max(1, last))
    wanted = min(last, max(1, count // width))
    places = sorted({round(place) for place in np.linspace(0, last - 1, wanted)}) if last else []
    if stored.tensor.spec.size <= 50 * count:
        places = []
        spans = spans if stored.tensor.spec.size else []
    parts = [rows.read(at, at + 1, scratch, "rows")[1].reshape(-1).copy() for at in places]
    if not places:
        parts = [rows.read(a, b, scratch, "rows")[1].reshape(-1).copy() for a, b in spans]
    joined = np.concatenate(parts) if parts else np.empty(0, np.float32)
    step = max(1, joined.size // count)
    values = np.empty(joined[::step].shape, np.float32)
    cast(joined[::step], values)
    return values[np.isfinite(values)]

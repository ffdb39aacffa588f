"""A checkpoint as a picture shows it: what came from where, and how its values are spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converter.execution.row_blocks import cast
from converter.execution.row_readers import BufferPool, StoredTensorReader
from converter.formats.base import Array
from converter.models.model import Model
from converter.name_ranges import split_layer_index
from converter.plan import SourceTensor
from converter.progress import ProgressCounter
from converter.verification.comparison import (
    Provenance,
    blocks,
    ranges,
    scratch_of_thread,
    thread_map,
)

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


def measure(stored: SourceTensor) -> Statistics:
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


def sample(stored: SourceTensor, count: int = 20_000) -> Array:
    """About `count` finite values as float32, from rows spread evenly; all if there are fewer.

    Raises:
        CheckpointError: if it cannot be read.

    """
    rows, scratch = StoredTensorReader(stored), BufferPool(0)
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


BINS = 60
_SPREAD = 4.0
"""Standard deviations from the mean at which a histogram ends."""

_WRONG = "not as in"

UNKNOWN = "not stated"
"""The origin of what nobody tells of."""

WHOLE = "Model"
"""The title of the panel of a stand-alone model."""


@dataclass
class Layer:
    """The matrices of one layer, or of what lies in no layer."""

    title: str
    names: list[str] = field(default_factory=list)
    statistics: Statistics = NOTHING
    histogram: Sequence[int] = ()
    """Counts of a sample in `BINS` equal bins."""
    low: float = 0.0
    high: float = 0.0


@dataclass
class ReportSection:
    """A half of the model, or what is fresh in it."""

    title: str
    layers: list[Layer]


@dataclass
class ValueReport:
    """Everything that the page shows beyond the verification itself."""

    model: str
    """The PyTorch class."""
    parameters: int
    origins: Mapping[str, Mapping[str, int]]
    """Half → where values come from → number of values."""
    tensors: Mapping[str, tuple[SourceTensor, str, Statistics]]
    """Canonical name → its place, its origin, its statistics."""
    panels: Sequence[ReportSection]


def value_report(
    model: Model,
    manifest: Mapping[str, Any] | None,
    origins: Mapping[str, Provenance],
    jobs: int | None,
    meter: ProgressCounter,
) -> ValueReport:
    """Look at every value of `model` once.

    Args:
        model: the finished checkpoint.
        manifest: its manifest, if there is one, which tells where values came from.
        origins: what a comparison with the sources found, which goes before what is stated.
        jobs: threads.
        meter: counts the bytes that are read.

    Raises:
        CheckpointError: if a tensor cannot be read.

    """
    matched = model.report.matched
    items = list(matched.items())
    count = meter.start_step({name: stored.tensor.spec.nbytes for name, stored in items})
    found = thread_map(lambda item: _look(item[1]), items, jobs, lambda item: count(item[0]))
    looks = dict(zip(matched, found, strict=True))
    stated = manifest.get("tensors") if manifest else None
    told = {
        name: _origin(name, stated if isinstance(stated, dict) else {}, origins) for name in matched
    }
    tally: dict[str, dict[str, int]] = {submodel: {} for submodel in model.submodels}
    for name, stored in items:
        submodel = name.partition(".")[0] if model.submodels else "model"
        known = submodel in model.submodels or not model.submodels
        counts = tally.setdefault(submodel if known else "between the halves", {})
        counts[told[name]] = counts.get(told[name], 0) + stored.tensor.spec.size
    return ValueReport(
        model=model.name,
        parameters=sum(stored.tensor.spec.size for _, stored in items),
        origins=tally,
        tensors={name: (stored, told[name], looks[name][0]) for name, stored in items},
        panels=_panels(model, told, looks),
    )


def is_fresh(origin: str) -> bool:
    """Whether an origin, as `value_report` words it, means that the values were drawn anew."""
    return origin.startswith("fresh")


def is_wrong(origin: str) -> bool:
    """Whether an origin, as `value_report` words it, means that the values are not its source's."""
    return origin.startswith(_WRONG)


def _look(stored: SourceTensor) -> tuple[Statistics, Array]:
    matrix = sum(length > 1 for length in stored.tensor.spec.shape) > 1
    return measure(stored), sample(stored) if matrix else np.empty(0, np.float32)


def _origin(name: str, stated: Mapping[str, Any], origins: Mapping[str, Provenance]) -> str:
    """Where the values of one tensor come from, in few words."""
    if name in origins:
        origin = origins[name]
        if origin.source is None:
            return "fresh"
        return f"{'from' if origin.verdict == 'equal' else _WRONG} {origin.source}"
    entry = stated.get(name)
    if not isinstance(entry, dict):
        return UNKNOWN
    if entry.get("origin") == "initialised":
        return "fresh"
    return f"from {entry.get('source')}, {entry.get('file')}"


def _panels(
    model: Model, told: Mapping[str, str], looks: Mapping[str, tuple[Statistics, Array]]
) -> list[ReportSection]:
    """The halves, layer by layer, and what is fresh in them apart."""
    groups: dict[str, dict[str, Layer]] = {}
    samples: dict[int, list[Array]] = {}
    for name, (statistics, values) in looks.items():
        if not values.size:
            continue  # vectors have their place in the table
        submodel, _, rest = name.partition(".")
        submodel = submodel if submodel in model.submodels else ""
        head, number, _ = split_layer_index(rest if submodel else name)
        fresh = is_fresh(told[name])
        panel = (
            "Fresh weights"
            if fresh
            else submodel.capitalize() or ("Between the halves" if model.submodels else WHOLE)
        )
        title = f"layer {number}" if number is not None else head.rpartition(".")[0] or head
        if fresh and submodel:
            title = f"{submodel} {title}"
        layer = groups.setdefault(panel, {}).setdefault(title, Layer(title))
        layer.names.append(name)
        layer.statistics += statistics
        samples.setdefault(id(layer), []).append(values)
    order = [
        *(submodel.capitalize() for submodel in model.submodels),
        "Between the halves",
        WHOLE,
        "Fresh weights",
    ]
    panels = []
    for title in order:
        layers = list(groups.get(title, {}).values())
        low = min((_edges(layer)[0] for layer in layers), default=0.0)
        high = max((_edges(layer)[1] for layer in layers), default=0.0)
        for layer in layers:  # of one panel all on one scale, so that the eye can compare
            layer.low, layer.high = low, high
            joined = np.concatenate(samples[id(layer)])
            if high > low:
                counts, _ = np.histogram(np.clip(joined, low, high), BINS, (low, high))
                layer.histogram = [int(count) for count in counts]
        if layers:
            panels.append(ReportSection(title, layers))
    return panels


def _edges(layer: Layer) -> tuple[float, float]:
    found = layer.statistics
    reach = _SPREAD * found.deviation
    return max(found.minimum, found.mean - reach), min(found.maximum, found.mean + reach)

"""Statistics of tensors, and the origins and distributions of all values of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from converter.execution.rows import BufferPool, StoredTensorReader, cast
from converter.formats.base import Array
from converter.models.model import Model
from converter.plan import SourceTensor
from converter.progress import ProgressCounter
from converter.text import split_layer_index
from converter.verification.comparison import as_float64, blocks, ranges, thread_buffers, thread_map
from converter.verification.manifest import is_initialized, tensor_entries
from converter.verification.result import (
    EQUAL,
    NOTHING,
    Layer,
    Provenance,
    ReportSection,
    Statistics,
    TensorSummary,
    ValueOrigin,
    ValueReport,
)

_CHUNK = 1 << 16
"""Elements cast to float64 at once."""


def measure(stored: SourceTensor) -> Statistics:
    """Return the statistics of a stored tensor, read block by block."""
    total = NOTHING
    for block in blocks(stored, thread_buffers(), "block"):
        flat = block.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            total += _statistics(flat[start : start + _CHUNK])
    return total


def _statistics(values: Array) -> Statistics:
    wide = as_float64(np.abs(values) if values.dtype.kind == "c" else values)
    finite = wide if np.isfinite(wide.sum()) else wide[np.isfinite(wide)]
    non_finite = wide.size - finite.size
    if not finite.size:
        return Statistics(0, math.inf, -math.inf, 0.0, 0.0, non_finite)
    mean = float(finite.mean())
    deviation = math.sqrt(float(np.square(finite - mean).mean()))
    return Statistics(
        finite.size, float(finite.min()), float(finite.max()), mean, deviation, non_finite
    )


def sample(stored: SourceTensor, count: int = 20_000) -> Array:
    """Return about `count` finite values as float32, from evenly spread rows; or all, if fewer."""
    rows, buffers = StoredTensorReader(stored), BufferPool(0)
    size = stored.tensor.spec.size
    spans = list(ranges(stored)) if size else []
    if size > 50 * count:
        stop = spans[-1][1]
        number = min(stop, max(1, count // max(1, size // stop)))
        starts = sorted({round(row) for row in np.linspace(0, stop - 1, number)})
        spans = [(start, start + 1) for start in starts]
    parts = [rows.read(a, b, buffers, "rows")[1].reshape(-1).copy() for a, b in spans]
    joined = np.concatenate(parts) if parts else np.empty(0, np.float32)
    step = max(1, joined.size // count)
    values = np.empty(joined[::step].shape, np.float32)
    cast(joined[::step], values)
    return values[np.isfinite(values)]


BINS = 60
_SPREAD = 4.0
"""Standard deviations from the mean at which a histogram ends."""

MODEL = "Model"
"""Title of the section of a stand-alone model."""
_OUTSIDE = "Outside the submodels"
_INITIALIZED = "Initialized weights"


def build_value_report(
    model: Model,
    manifest: Mapping[str, Any] | None,
    origins: Mapping[str, Provenance],
    jobs: int | None,
    progress: ProgressCounter,
) -> ValueReport:
    """Read every value of `model` once.

    Origins that a comparison with the sources found take precedence over those in the manifest.
    """
    matched = model.key_match.matched
    count = progress.start_step({n: stored.tensor.spec.nbytes for n, stored in matched.items()})
    results = thread_map(
        lambda item: _look(item[1]),
        list(matched.items()),
        jobs,
        lambda item: count(item[0]),
        lambda item: [item[1]],
    )
    entries = tensor_entries(manifest)
    tensors, samples = {}, {}
    totals: dict[str, dict[ValueOrigin, int]] = {submodel: {} for submodel in model.submodels}
    for (name, stored), (statistics, values) in zip(matched.items(), results, strict=True):
        origin = _origin(name, entries.get(name), origins)
        tensors[name], samples[name] = TensorSummary(stored, origin, statistics), values
        submodel = name.partition(".")[0] if model.submodels else "model"
        if model.submodels and submodel not in model.submodels:
            submodel = _OUTSIDE.lower()
        counts = totals.setdefault(submodel, {})
        counts[origin] = counts.get(origin, 0) + stored.tensor.spec.size
    return ValueReport(
        model=model.name,
        parameters=model.parameters,
        origins=totals,
        tensors=tensors,
        sections=_sections(model.submodels, tensors, samples),
    )


def _look(stored: SourceTensor) -> tuple[Statistics, Array]:
    matrix = sum(length > 1 for length in stored.tensor.spec.shape) > 1
    return measure(stored), sample(stored) if matrix else np.empty(0, np.float32)


def _origin(name: str, entry: Any, origins: Mapping[str, Provenance]) -> ValueOrigin:
    """Return the origin of one tensor by the comparison, or else by its entry in the manifest."""
    if name in origins:
        origin = origins[name]
        if origin.source is None:
            return ValueOrigin("initialized", "initialized")
        if origin.verdict == EQUAL:
            return ValueOrigin("source", f"from {origin.source}")
        return ValueOrigin("different", f"differs from {origin.source}")
    if not isinstance(entry, dict):
        return ValueOrigin("unknown", "unknown")
    if is_initialized(entry):
        return ValueOrigin("initialized", "initialized")
    return ValueOrigin("source", f"from {entry.get('source')}, {entry.get('file')}")


def _sections(
    submodels: Sequence[str], tensors: Mapping[str, TensorSummary], samples: Mapping[str, Array]
) -> list[ReportSection]:
    """Group matrices by submodel and layer, with the initialized ones in a section of their own."""
    groups: dict[str, dict[str, list[str]]] = {
        title: {} for title in (*(s.capitalize() for s in submodels), _OUTSIDE, MODEL, _INITIALIZED)
    }
    for name, summary in tensors.items():
        if not samples[name].size:
            continue  # vectors are only listed in the table
        submodel, _, rest = name.partition(".")
        submodel = submodel if submodel in submodels else ""
        head, number, _ = split_layer_index(rest if submodel else name)
        title = f"layer {number}" if number is not None else head.rpartition(".")[0] or head
        section = submodel.capitalize() or (_OUTSIDE if submodels else MODEL)
        if summary.origin.kind == "initialized":
            section = _INITIALIZED
            title = f"{submodel} {title}".lstrip()
        groups[section].setdefault(title, []).append(name)
    return [
        ReportSection(title, _layers(layers, tensors, samples))
        for title, layers in groups.items()
        if layers
    ]


def _layers(
    groups: Mapping[str, Sequence[str]],
    tensors: Mapping[str, TensorSummary],
    samples: Mapping[str, Array],
) -> list[Layer]:
    """Return the layers of one section, with histograms on one scale so that they compare."""
    totals = {
        title: sum((tensors[name].statistics for name in names), NOTHING)
        for title, names in groups.items()
    }
    low = min(max(t.minimum, t.mean - _SPREAD * t.deviation) for t in totals.values())
    high = max(min(t.maximum, t.mean + _SPREAD * t.deviation) for t in totals.values())
    layers = []
    for title, names in groups.items():
        counts: Array = np.empty(0)
        if high > low:
            values = np.concatenate([samples[name] for name in names])
            counts, _ = np.histogram(np.clip(values, low, high), BINS, (low, high))
        histogram = [int(count) for count in counts]
        layers.append(Layer(title, names, totals[title], histogram, low, high))
    return layers

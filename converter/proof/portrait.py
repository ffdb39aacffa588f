"""A checkpoint as a picture shows it: what came from where, and how its values are spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converter.composition.model import Model
from converter.containers.base import Array
from converter.folding import numbered
from converter.plan import Stored
from converter.progress import Meter
from converter.proof.comparison import in_threads
from converter.proof.origin import Origin
from converter.proof.statistics import NOTHING, Statistics, measure, sample

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
class Panel:
    """A half of the model, or what is fresh in it."""

    title: str
    layers: list[Layer]


@dataclass
class Portrait:
    """Everything that the page shows beyond the verification itself."""

    model: str
    """The PyTorch class."""
    parameters: int
    origins: Mapping[str, Mapping[str, int]]
    """Half → where values come from → number of values."""
    tensors: Mapping[str, tuple[Stored, str, Statistics]]
    """Canonical name → its place, its origin, its statistics."""
    panels: Sequence[Panel]


def portray(
    model: Model,
    manifest: Mapping[str, Any] | None,
    origins: Mapping[str, Origin],
    jobs: int | None,
    meter: Meter,
) -> Portrait:
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
    count = meter.counting({name: stored.tensor.spec.nbytes for name, stored in items})
    found = in_threads(lambda item: _look(item[1]), items, jobs, lambda item: count(item[0]))
    looks = dict(zip(matched, found, strict=True))
    stated = manifest.get("tensors") if manifest else None
    told = {
        name: _origin(name, stated if isinstance(stated, dict) else {}, origins) for name in matched
    }
    tally: dict[str, dict[str, int]] = {half: {} for half in model.halves}
    for name, stored in items:
        half = name.partition(".")[0] if model.halves else "model"
        known = half in model.halves or not model.halves
        counts = tally.setdefault(half if known else "between the halves", {})
        counts[told[name]] = counts.get(told[name], 0) + stored.tensor.spec.size
    return Portrait(
        model=model.name,
        parameters=sum(stored.tensor.spec.size for _, stored in items),
        origins=tally,
        tensors={name: (stored, told[name], looks[name][0]) for name, stored in items},
        panels=_panels(model, told, looks),
    )


def is_fresh(origin: str) -> bool:
    """Whether an origin, as `portray` words it, means that the values were drawn anew."""
    return origin.startswith("fresh")


def is_wrong(origin: str) -> bool:
    """Whether an origin, as `portray` words it, means that the values are not its source's."""
    return origin.startswith(_WRONG)


def _look(stored: Stored) -> tuple[Statistics, Array]:
    matrix = sum(length > 1 for length in stored.tensor.spec.shape) > 1
    return measure(stored), sample(stored) if matrix else np.empty(0, np.float32)


def _origin(name: str, stated: Mapping[str, Any], origins: Mapping[str, Origin]) -> str:
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
) -> list[Panel]:
    """The halves, layer by layer, and what is fresh in them apart."""
    groups: dict[str, dict[str, Layer]] = {}
    samples: dict[int, list[Array]] = {}
    for name, (statistics, values) in looks.items():
        if not values.size:
            continue  # vectors have their place in the table
        half, _, rest = name.partition(".")
        half = half if half in model.halves else ""
        head, number, _ = numbered(rest if half else name)
        fresh = is_fresh(told[name])
        panel = (
            "Fresh weights"
            if fresh
            else half.capitalize() or ("Between the halves" if model.halves else WHOLE)
        )
        title = f"layer {number}" if number is not None else head.rpartition(".")[0] or head
        if fresh and half:
            title = f"{half} {title}"
        layer = groups.setdefault(panel, {}).setdefault(title, Layer(title))
        layer.names.append(name)
        layer.statistics += statistics
        samples.setdefault(id(layer), []).append(values)
    order = [
        *(half.capitalize() for half in model.halves),
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
            panels.append(Panel(title, layers))
    return panels


def _edges(layer: Layer) -> tuple[float, float]:
    found = layer.statistics
    reach = _SPREAD * found.deviation
    return max(found.minimum, found.mean - reach), min(found.maximum, found.mean + reach)

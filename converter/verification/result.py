"""The results of a verification: differences, origins, statistics, findings and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from converter.display import Displayed
from converter.errors import Problem
from converter.plan import SourceTensor

EQUAL, INITIALIZED = "equal", "initialized"
"""The verdicts on tensors without a fault."""


def tensor_problem(
    what: str, stored: SourceTensor, expected: str | None = None, found: str | None = None
) -> Problem:
    """Return a problem of one stored tensor."""
    return Problem(what, str(stored.tensor.path), stored.tensor.spec.name, expected, found)


@dataclass(frozen=True)
class Difference:
    """The difference between two tensors of one canonical name and shape."""

    name: str
    elements: int
    differing: int
    """Elements that differ in any bit, after both were cast to the wider dtype."""
    max_abs: float
    mean_abs: float
    cosine: float
    """Cosine similarity of the flattened tensors; NaN where one of them is zero."""
    dtypes: tuple[str, str]

    @property
    def exact(self) -> bool:
        """Return whether all values are equal."""
        return self.differing == 0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON representation; values that are not finite are null."""
        return {
            "elements": self.elements,
            "differing": self.differing,
            "max_abs": _finite(self.max_abs),
            "mean_abs": _finite(self.mean_abs),
            "cosine": _finite(self.cosine),
            "dtypes": list(self.dtypes),
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Provenance:
    """The source of one tensor's values."""

    source: str | None
    """The source checkpoint; ``None`` for an initialized tensor."""
    verdict: str
    """``equal``, ``initialized``, or what is wrong."""
    difference: Difference | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON representation."""
        fields: dict[str, Any] = {"source": self.source, "verdict": self.verdict}
        if self.difference and not self.difference.exact:
            fields["difference"] = self.difference.to_dict()
        return fields


@dataclass(frozen=True)
class Statistics:
    """Statistics of the finite values of one or more tensors, in float64."""

    count: int
    """Finite values."""
    minimum: float
    maximum: float
    mean: float
    deviation: float
    """The population standard deviation."""
    non_finite: int = 0
    """Values that are infinite or not a number."""

    def __add__(self, other: Statistics) -> Statistics:
        """Return the statistics of the values of both (Chan, Golub and LeVeque 1979)."""
        non_finite = self.non_finite + other.non_finite
        if not self.count or not other.count:
            return replace(self if self.count else other, non_finite=non_finite)
        count = self.count + other.count
        distance = other.mean - self.mean
        squares = self.count * self.deviation**2 + other.count * other.deviation**2
        squares += distance**2 * self.count * other.count / count
        return Statistics(
            count,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            self.mean + distance * other.count / count,
            math.sqrt(squares / count),
            non_finite,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON representation; null where there is no finite value."""
        numbers = (self.minimum, self.maximum, self.mean, self.deviation)
        stated = numbers if self.count else (None,) * 4
        return {
            **dict(zip(("min", "max", "mean", "std"), stated, strict=True)),
            "not_finite": self.non_finite,
        }


NOTHING = Statistics(0, math.inf, -math.inf, 0.0, 0.0)


@dataclass(frozen=True)
class ValueOrigin:
    """Where values come from."""

    kind: Literal["source", "different", "initialized", "unknown"]
    """``different``: not equal to the source that was given."""
    label: str
    """In words."""


@dataclass(frozen=True)
class TensorSummary:
    """One tensor of a checkpoint."""

    stored: SourceTensor
    origin: ValueOrigin
    statistics: Statistics


@dataclass(frozen=True)
class Layer:
    """The matrices of one layer, or of one module outside the layers."""

    title: str
    names: Sequence[str]
    statistics: Statistics
    histogram: Sequence[int]
    """Counts of a sample of the values in equal bins from `low` to `high`."""
    low: float
    high: float


@dataclass(frozen=True, repr=False)
class ReportSection(Displayed):
    """A submodel, or the initialized weights."""

    title: str
    layers: Sequence[Layer]


@dataclass(frozen=True, repr=False)
class ValueReport(Displayed):
    """Origins and distributions of the values of a checkpoint."""

    model: str
    """The PyTorch class."""
    parameters: int
    origins: Mapping[str, Mapping[ValueOrigin, int]]
    """Submodel → origin → number of values."""
    tensors: Mapping[str, TensorSummary]
    """By canonical name."""
    sections: Sequence[ReportSection]


@dataclass(frozen=True)
class Findings:
    """What one step of a verification reports."""

    problems: Sequence[Problem] = ()
    notes: Sequence[str] = ()
    """Observations that are not faults."""
    checks: Mapping[str, str] = field(default_factory=dict)
    """What was checked → how much of it passed."""

    def __add__(self, other: Findings) -> Findings:
        """Return the findings of both steps, in order."""
        return Findings(
            [*self.problems, *other.problems],
            [*self.notes, *other.notes],
            {**self.checks, **other.checks},
        )


@dataclass(frozen=True, repr=False)
class Verification(Displayed):
    """The result of `verify`."""

    directory: str
    files: Sequence[str]
    """The weight files and indexes that were verified."""
    checks: Mapping[str, str] = field(default_factory=dict)
    """What was checked → how much of it passed."""
    problems: Sequence[Problem] = ()
    notes: Sequence[str] = ()
    """Observations that are not faults."""
    origins: Mapping[str, Provenance] = field(default_factory=dict)
    """With ``against``: canonical name → the source of its values."""
    value_report: ValueReport | None = None
    """On request: origins and distributions of all values."""

    @property
    def verified(self) -> bool:
        """Return whether no problem was found."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON representation."""
        return {
            "directory": self.directory,
            "verified": self.verified,
            "files": list(self.files),
            "checks": dict(self.checks),
            "problems": [problem.to_dict() for problem in self.problems],
            "notes": list(self.notes),
            "origins": {name: origin.to_dict() for name, origin in self.origins.items()},
        }

"""The results of a verification: differences, provenance, findings and the complete report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from converter.errors import Problem

if TYPE_CHECKING:
    from converter.verification.value_report import ValueReport

EQUAL, INITIALIZED = "equal", "initialized"
"""The verdicts on tensors without a fault."""


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


@dataclass(frozen=True)
class Verification:
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

"""What proving a checkpoint brings to light."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from converter.errors import Problem
from converter.verification.comparison import Provenance
from converter.verification.value_report import ValueReport


@dataclass
class Verification:
    """What `verify` found."""

    directory: str
    formats: Sequence[str]
    """The weight files and indexes that were verified."""
    checks: dict[str, str] = field(default_factory=dict)
    """What was checked → how much of it."""
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is no fault, but worth knowing."""
    origins: Mapping[str, Provenance] = field(default_factory=dict)
    """With ``against``: canonical name → where its values come from."""
    portrait: ValueReport | None = None
    """If it was asked for: what came from where, and how the values are spread."""

    @property
    def verified(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "directory": self.directory,
            "verified": self.verified,
            "formats": list(self.formats),
            "checks": dict(self.checks),
            "problems": [problem.to_dict() for problem in self.problems],
            "notes": list(self.notes),
            "origins": {name: origin.to_dict() for name, origin in self.origins.items()},
        }

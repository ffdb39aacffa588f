"""How jobs ended, and all of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from converter.errors import ConverterError
from converter.recipes.reading import Job

DONE = "done"
SKIPPED = "skipped"
"""It lay there already, as it would be made."""
FAILED = "failed"
LEFT = "not started"
INTERRUPTED = "interrupted"
"""It was running when the run was interrupted; nothing of it is left."""
PLANNED = "planned"
"""It would be made, were this no dry run."""

STATUSES = (DONE, SKIPPED, FAILED, LEFT, INTERRUPTED, PLANNED)


@dataclass
class Outcome:
    """How a job ended."""

    job: Job
    status: str
    seconds: float = 0.0
    error: ConverterError | None = None
    pushed: Mapping[str, Any] | None = None
    files: Mapping[str, int] | None = None
    """Of a dry run: the weight files that it would write → bytes of their tensors."""
    after: Sequence[str] = ()
    """Of a dry run: the jobs that have to be made before it can be planned."""

    def to_dict(self) -> dict[str, Any]:
        """As the summary has it."""
        found: dict[str, Any] = {
            "command": self.job.command,
            "output": self.job.output,
            "status": self.status,
            "seconds": round(self.seconds, 3),
        }
        for key in ("pushed", "files"):
            if (value := getattr(self, key)) is not None:
                found[key] = dict(value)
        if self.after:
            found["after"] = list(self.after)
        return {**found, **(self.error.to_dict() if self.error else {})}


@dataclass
class Summary:
    """How all jobs ended."""

    outcomes: list[Outcome] = field(default_factory=list)

    def count(self, status: str) -> int:
        """How many ended so."""
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def succeeded(self) -> bool:
        """Whether every job is done, or in a dry run could be."""
        return all(outcome.status in (DONE, SKIPPED, PLANNED) for outcome in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "command": "run",
            "counts": {status: self.count(status) for status in STATUSES},
            "jobs": {outcome.job.name: outcome.to_dict() for outcome in self.outcomes},
        }


class Interrupted(KeyboardInterrupt):
    """The run was interrupted.

    Args:
        summary: how the jobs stand. What was running was ended cleanly, what is done stays.
    """

    def __init__(self, summary: Summary) -> None:
        super().__init__("the run was interrupted")
        self.summary = summary

"""Every error a user can meet.

The tree::

    ConverterError
    ├── UsageError            the call itself is wrong (exit code 2)
    ├── CheckpointError       a source cannot be found or read
    │   └── FormatError       a file is damaged, truncated, lying or hostile
    ├── ConfigError           config.json is missing, malformed or lacks a field
    ├── TableError            a mapping table is wrong
    ├── MatchError            tensors and table do not agree
    ├── UnsupportedError      a family, role, framework or dtype that cannot be had
    ├── OutputError           the result cannot be written
    └── VerificationError     a finished checkpoint is not what it should be

An error names the file, the tensor, what was expected, what was found and what to do next, and
carries *all* problems found, not the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, in the parts a reader needs to mend it."""

    what: str
    """The finding in one clause, such as ``"wrong shape"``."""
    file: str | None = None
    tensor: str | None = None
    expected: str | None = None
    found: str | None = None
    remedy: str | None = None

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.file, self.tensor) if part)
        text = f"{place}: {self.what}" if place else self.what
        if self.expected is not None:
            text += f"; expected {self.expected}"
        if self.found is not None:
            text += f"; found {self.found}"
        if self.remedy is not None:
            text += f" ({self.remedy})"
        return text

    def to_dict(self) -> dict[str, str]:
        """The parts that are known, for ``--json``."""
        return {
            key: value
            for key in ("what", "file", "tensor", "expected", "found", "remedy")
            if (value := getattr(self, key)) is not None
        }


class ConverterError(Exception):
    """Base of all errors that this package raises on purpose.

    Args:
        message: one sentence that says what could not be done.
        problems: every single finding behind it.
        remedy: what the user should do next, when there is one thing to do.

    """

    kind = "error"
    exit_code = 1

    def __init__(
        self, message: str, problems: Sequence[Problem] = (), remedy: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.problems = tuple(problems)
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [self.message, *(f"  - {problem}" for problem in self.problems)]
        if self.remedy:
            lines.append(self.remedy)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """The error as ``--json`` prints it."""
        body: dict[str, object] = {
            "kind": self.kind,
            "message": self.message,
            "problems": [problem.to_dict() for problem in self.problems],
        }
        if self.remedy:
            body["remedy"] = self.remedy
        return {"error": body}


class UsageError(ConverterError):
    """The call itself is wrong: an option that does not exist or contradicts another."""

    kind = "usage"
    exit_code = 2


class CheckpointError(ConverterError):
    """A source cannot be found or read."""

    kind = "checkpoint"


class FormatError(CheckpointError):
    """A file is damaged, truncated, lying about itself, or hostile."""

    kind = "format"


class ConfigError(ConverterError):
    """``config.json`` is missing, malformed, or lacks a field that the table needs."""

    kind = "config"


class TableError(ConverterError):
    """A mapping table breaks a rule."""

    kind = "table"


class MatchError(ConverterError):
    """The tensors of a checkpoint and the table of its family do not agree."""

    kind = "match"


class UnsupportedError(ConverterError):
    """A family, role, framework, container or dtype that cannot be had."""

    kind = "unsupported"


class OutputError(ConverterError):
    """The result cannot be written."""

    kind = "output"


class VerificationError(ConverterError):
    """A finished checkpoint is not what it should be."""

    kind = "verification"

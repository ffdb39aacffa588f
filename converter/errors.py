"""The exceptions that this package raises.

The tree::

    ConverterError
    ├── UsageError            the call itself is wrong (exit code 2)
    ├── CheckpointError       a source cannot be found or read
    │   └── FormatError       a file is damaged, truncated, inconsistent or hostile
    ├── ConfigError           config.json is missing, malformed or lacks a field
    ├── TableError            a mapping table is wrong
    ├── MatchError            tensors and mapping table do not agree
    ├── UnsupportedError      an architecture, role, framework or dtype is not supported
    ├── OutputError           the result cannot be written
    └── VerificationError     a finished checkpoint is wrong

An error names the file, the tensor, the expected and the actual value, and the step that fixes
it, and lists *all* problems, not only the first.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from converter.text import redact


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault, in the parts that a reader needs to fix it."""

    what: str
    """The fault in one clause, such as ``"wrong shape"``."""
    file: str | None = None
    tensor: str | None = None
    expected: str | None = None
    found: str | None = None
    remedy: str | None = None

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.file, self.tensor) if part)
        text = f"{place}: {self.what}" if place else self.what
        text += f"; expected {self.expected}" if self.expected is not None else ""
        text += f"; found {self.found}" if self.found is not None else ""
        return f"{text} ({self.remedy})" if self.remedy is not None else text

    def redacted(self) -> Problem:
        """Return the problem without secrets."""
        return replace(self, **{key: redact(part) for key, part in self.to_dict().items()})

    def reworded(self, change: Callable[[str], str]) -> Problem:
        """Return the problem with `change` applied to what is wrong and to the remedy."""
        remedy = None if self.remedy is None else change(self.remedy)
        return replace(self, what=change(self.what), remedy=remedy)

    def to_dict(self) -> dict[str, str]:
        """Return the parts that are not ``None``, for ``--json``."""
        return {
            key: value
            for key in ("what", "file", "tensor", "expected", "found", "remedy")
            if (value := getattr(self, key)) is not None
        }


class ConverterError(Exception):
    """The base class of all errors that this package raises on purpose.

    Args:
        message: one sentence that says what failed.
        problems: every fault behind it.
        remedy: what the user should do next, if that is one thing.

    """

    kind = "error"
    """In the reports of ``--json``; that of a subclass is its name without ``Error``."""
    exit_code = 1

    def __init_subclass__(cls) -> None:
        cls.kind = cls.__name__.removesuffix("Error").lower()

    def __init__(
        self, message: str, problems: Sequence[Problem] = (), remedy: str | None = None
    ) -> None:
        self.message = redact(message)
        super().__init__(self.message)
        self.problems = tuple(problem.redacted() for problem in problems)
        self.remedy = remedy and redact(remedy)

    def __str__(self) -> str:
        lines = [self.message, *(f"  - {problem}" for problem in self.problems)]
        if self.remedy:
            lines.append(self.remedy)
        return "\n".join(lines)

    def reword(self, change: Callable[[str], str]) -> None:
        """Apply `change` to the message, the problems and the remedy."""
        self.message = change(self.message)
        self.args = (self.message,)
        self.problems = tuple(problem.reworded(change) for problem in self.problems)
        self.remedy = self.remedy and change(self.remedy)

    def to_dict(self) -> dict[str, object]:
        """Return the error as ``--json`` prints it."""
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

    exit_code = 2


class CheckpointError(ConverterError):
    """A source cannot be found or read."""


class FormatError(CheckpointError):
    """A file is damaged, truncated, inconsistent or hostile."""


class ConfigError(ConverterError):
    """``config.json`` is missing, malformed, or lacks a field that the table needs."""


class TableError(ConverterError):
    """A mapping table breaks a rule."""


class MatchError(ConverterError):
    """The tensors of a checkpoint and the mapping table of its architecture do not agree."""


class UnsupportedError(ConverterError):
    """An architecture, role, framework, format or dtype is not supported."""


class OutputError(ConverterError):
    """The result cannot be written."""


class VerificationError(ConverterError):
    """A finished checkpoint is wrong."""


class ConverterWarning(UserWarning):
    """A likely problem of a result, which Python code is warned of; also in its ``warnings``."""


_NO_THREAD = "can't start new thread"
_NO_MEMORY = ("cannot allocate memory", "failed to map segment")
"""Parts of what the dynamic linker says of a library that does not fit."""


def resource_error(error: BaseException) -> ConverterError | None:
    """Return the error for a process that has too little memory or may start no thread.

    Return ``None`` if `error` has another reason.
    """
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    for each in causes:
        text = str(each).lower()
        if isinstance(each, RuntimeError) and _NO_THREAD in text:
            failed = ConverterError(
                "cannot start a thread: too many processes, or not enough memory",
                remedy="Raise the limit (ulimit -u, or that of the container), or try --jobs 1.",
            )
            failed.kind = "threads"
            return failed
        no_library = isinstance(each, ImportError) and any(part in text for part in _NO_MEMORY)
        no_pages = isinstance(each, OSError) and each.errno == errno.ENOMEM
        if isinstance(each, MemoryError) or no_library or no_pages:
            failed = ConverterError(
                "not enough memory", remedy="Try a smaller --memory or fewer --jobs."
            )
            failed.kind = "memory"
            return failed
    return None

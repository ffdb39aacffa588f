"""`check_table`: the problems of mapping tables, or a first draft of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converter.architectures.decoding import read_table
from converter.architectures.lint import lint
from converter.architectures.registry import ArchitectureRegistry
from converter.commands.draft_table import draft, open_marks
from converter.display import Displayed
from converter.errors import ConverterError, OutputError, Problem, UsageError
from converter.options import CheckTableOptions
from converter.python_calls import takes
from converter.storage.atomic_directory import write_file


@dataclass(frozen=True, repr=False)
class TableCheck(Displayed):
    """The result of `check_table`."""

    problems: Mapping[str, Sequence[Problem]]
    """File → its problems."""
    draft: str | None = None
    """The text of a first draft, if one was asked for."""
    marks: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """File → line → what a draft's mark ``decide:`` still leaves open there."""

    @property
    def valid(self) -> bool:
        """Return whether no table has a problem."""
        return not any(self.problems.values())

    @property
    def finished(self) -> bool:
        """Return whether all tables are valid, and nothing is left to decide."""
        return self.valid and not any(self.marks.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON representation."""
        if self.draft is not None:
            (marks,) = self.marks.values()
            return {"draft": self.draft, "marks": _listed(marks)}
        listed = {
            file: {
                "problems": [problem.to_dict() for problem in problems],
                "marks": _listed(self.marks.get(file, {})),
            }
            for file, problems in self.problems.items()
        }
        return {"tables": listed}


def _listed(marks: Mapping[int, str]) -> list[dict[str, Any]]:
    return [{"line": line, "decide": what} for line, what in marks.items()]


@takes(CheckTableOptions)
def check_table(options: CheckTableOptions) -> TableCheck:
    """Check mapping tables, which may extend each other, or draft one for a checkpoint.

    Raises:
        UsageError: if there are neither tables nor a checkpoint, or both.
        CheckpointError: if the checkpoint cannot be opened.
        UnsupportedError: if the checkpoint's names are not PyTorch's.
        OutputError: if the draft cannot be written, or its file exists.

    """
    given = options.files
    files = [Path(file) for file in ([given] if isinstance(given, str | Path) else given)]
    if options.draft is not None:
        if files:
            raise UsageError("--draft takes no tables to check")
        return _draft(options.draft, options)
    if options.output is not None:
        raise UsageError("--output requires --draft CHECKPOINT")
    if not files:
        raise UsageError("no table to check", remedy="Give a table, or --draft CHECKPOINT.")
    try:
        registry = ArchitectureRegistry.for_user(files)
    except ConverterError:  # with the bundled tables only, each file is reported by itself
        registry = ArchitectureRegistry()
    problems = {str(file): lint(file, registry) for file in files}
    marks = {}
    for file in files:
        with suppress(ConverterError, UnicodeDecodeError):  # which are among the problems
            marks[str(file)] = open_marks(read_table(file).decode())
    return TableCheck(problems, marks=marks)


def _draft(checkpoint: str | Path, options: CheckTableOptions) -> TableCheck:
    output = None if options.output is None else Path(options.output)
    if output and output.is_file():  # with the decisions that somebody has made
        raise OutputError(f"{output} exists", remedy="Give another name, or delete it first.")
    text = draft(checkpoint, options.config)
    if output:
        write_file(output, text.encode())
    return TableCheck({}, text, {str(output or "draft"): open_marks(text)})

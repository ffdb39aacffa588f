"""`check_table`: the problems of mapping tables, or a first draft of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.architectures.lint import lint
from converter.architectures.registry import ArchitectureRegistry
from converter.commands.draft_table import draft
from converter.display import Displayed
from converter.errors import ConverterError, Problem, UsageError
from converter.option_declaration import takes
from converter.options import CheckTableOptions


@dataclass(frozen=True, repr=False)
class TableCheck(Displayed):
    """The result of `check_table`."""

    problems: Mapping[str, Sequence[Problem]]
    """File → its problems."""
    draft: str | None = None
    """The text of a first draft, if one was asked for."""

    @property
    def valid(self) -> bool:
        """Return whether no table has a problem."""
        return not any(self.problems.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON representation."""
        if self.draft is not None:
            return {"draft": self.draft}
        listed = {
            file: {"problems": [problem.to_dict() for problem in problems]}
            for file, problems in self.problems.items()
        }
        return {"tables": listed}


@takes(CheckTableOptions)
def check_table(options: CheckTableOptions) -> TableCheck:
    """Check mapping tables, which may extend each other, or draft one for a checkpoint.

    Raises:
        UsageError: if there are neither tables nor a checkpoint, or both.
        CheckpointError: if the checkpoint cannot be opened.
        UnsupportedError: if the checkpoint's names are not PyTorch's.

    """
    given = options.files
    files = [Path(file) for file in ([given] if isinstance(given, str | Path) else given)]
    if options.draft is not None:
        if files:
            raise UsageError("--draft takes no tables to check")
        return TableCheck({}, draft(options.draft, options.config))
    if not files:
        raise UsageError("no table to check", remedy="Give a table, or --draft CHECKPOINT.")
    try:
        registry = ArchitectureRegistry(files)
    except ConverterError:  # with the bundled tables only, each file is reported by itself
        registry = ArchitectureRegistry()
    return TableCheck({str(file): lint(file, registry) for file in files})

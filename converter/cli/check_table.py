"""``converter check-table``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from converter.cli.console import emit_json, print_result
from converter.cli.options import command as make_command
from converter.options import CheckTableOptions

if TYPE_CHECKING:
    from converter.architectures.registry import ArchitectureRegistry

_EPILOG = """\b
Examples:
  converter check-table mappings/bert.toml
  converter check-table mappings/gpt2.toml mappings/electra.toml --json
  converter check-table --draft fixtures/bert-tiny"""


@make_command("check-table", CheckTableOptions, _EPILOG)
def command(files: tuple[str, ...], draft: str | None, config: str | None, json: bool) -> int:
    """Check mapping tables of your own.

    Looks for names claimed twice, sizes of unknown fields, rows that are never used, and rules
    that are not reversible. The exit code is 1 if there is any problem.
    """
    if draft is not None:
        return _draft(draft, config, files, json)
    if not files:
        raise click.UsageError("Give a table, or --draft CHECKPOINT.")
    from converter.architectures.lint import lint
    from converter.report.rich_text import count, printable

    paths = tuple(map(Path, files))
    registry = _together(paths)
    problems_by_file = {str(file): lint(file, registry) for file in paths}
    if json:
        emit_json(
            {
                "tables": {
                    file: {"problems": [problem.to_dict() for problem in problems]}
                    for file, problems in problems_by_file.items()
                }
            }
        )
    else:
        for file, problems in problems_by_file.items():
            print_result(
                f"{printable(file)}: {count(len(problems), 'problem') if problems else 'good'}"
            )
            for problem in problems:
                print_result(f"  - {printable(str(problem))}")
    return int(any(problems_by_file.values()))


def _draft(source: str, config: str | None, files: tuple[str, ...], json: bool) -> int:
    """Print the draft of a table."""
    from converter.commands.draft_table import draft

    if files:
        raise click.UsageError("--draft takes no tables to check.")
    text = draft(source, config)
    if json:
        emit_json({"draft": text})
    else:
        print_result(text.rstrip())
    return 0


def _together(files: tuple[Path, ...]) -> ArchitectureRegistry:
    """Return the bundled tables and all of `files`, which may extend each other.

    If one of them cannot be parsed, only the bundled ones: each file is then reported by itself.
    """
    from converter.architectures.registry import ArchitectureRegistry
    from converter.errors import ConverterError

    try:
        return ArchitectureRegistry(files)
    except ConverterError:
        return ArchitectureRegistry()

"""``converter check-table``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from converter.cli import options
from converter.cli.completion import sources
from converter.cli.console import emit_json, print_result

if TYPE_CHECKING:
    from converter.architectures.registry import ArchitectureRegistry

_EPILOG = """\b
Examples:
  converter check-table mappings/bert.toml
  converter check-table mappings/gpt2.toml mappings/electra.toml --json
  converter check-table --draft fixtures/bert-tiny"""


DRAFT = click.option(
    "--draft",
    metavar="CHECKPOINT",
    shell_complete=sources,
    help="Print a first draft of a table for this checkpoint, with what is to be decided.",
)


@click.command("check-table", epilog=_EPILOG)
@click.argument("files", metavar="FILE...", nargs=-1, type=options.FILE)
@options.add_options((DRAFT, options.CONFIG, options.JSON))
def command(files: tuple[Path, ...], draft: str | None, config: Path | None, json: bool) -> int:
    """Check mapping tables of your own.

    Looks for names claimed twice, sizes of unknown fields, rows that are never used, and rules
    that cannot be turned round. The exit code is 1 if there is any problem.
    """
    if draft is not None:
        return _draft(draft, config, files, json)
    if not files:
        raise click.UsageError("Give a table, or --draft CHECKPOINT.")
    from converter.architectures.lint import lint
    from converter.report.rich_text import count, printable

    registry = _together(files)
    found = {str(file): lint(file, registry) for file in files}
    if json:
        emit_json(
            {
                "tables": {
                    file: {"problems": [problem.to_dict() for problem in problems]}
                    for file, problems in found.items()
                }
            }
        )
    else:
        for file, problems in found.items():
            print_result(
                f"{printable(file)}: {count(len(problems), 'problem') if problems else 'good'}"
            )
            for problem in problems:
                print_result(f"  - {printable(str(problem))}")
    return int(any(found.values()))


def _draft(source: str, config: Path | None, files: tuple[Path, ...], json: bool) -> int:
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
    """The bundled tables and all of `files`, which may extend each other.

    If one of them cannot even be parsed, the bundled ones alone: each file is then told apart.
    """
    from converter.architectures.registry import ArchitectureRegistry
    from converter.errors import ConverterError

    try:
        return ArchitectureRegistry(files)
    except ConverterError:
        return ArchitectureRegistry()

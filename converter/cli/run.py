"""``converter run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from converter.cli import options
from converter.cli.console import emit, emit_json, say

if TYPE_CHECKING:
    from converter.recipes.running import Outcome

_EPILOG = """\b
Examples:
  converter run recipes.yaml
  converter run bert.yaml gpt2.json --jobs 2 --keep-going --summary done.json

Paths in a recipe start where the command is run."""


@click.command("run", epilog=_EPILOG)
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True, type=options.FILE)
@options.add(
    (
        click.option(
            "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Jobs at once."
        ),
        click.option("--keep-going", is_flag=True, help="Run the others where some jobs fail."),
        click.option(
            "--summary", type=options.OUTPUT, metavar="FILE", help="Write how all ended as JSON."
        ),
        options.JSON,
    )
)
def command(
    recipes: tuple[Path, ...], jobs: int, keep_going: bool, summary: Path | None, json: bool
) -> int:
    """Make the checkpoints of recipes.

    All jobs are planned before any is started. What is there already, as it would be made, is
    skipped. The exit code is 1 if any job failed.
    """
    from converter.jsonfile import to_json
    from converter.recipes.running import run

    def tell(outcome: Outcome) -> None:
        say(f"{outcome.job.name}: {outcome.status}")
        if outcome.error:
            say("  " + str(outcome.error).replace("\n", "\n  "))

    found = run(*recipes, jobs=jobs, keep_going=keep_going, told=tell)
    if summary:
        summary.write_bytes(to_json(found.to_dict()))
    if json:
        emit_json(found.to_dict())
    else:
        counts = {status: number for status, number in found.to_dict()["counts"].items() if number}
        emit(", ".join(f"{number} {status}" for status, number in counts.items()))
    return int(not found.succeeded)

"""``converter split``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from converter.cli import options
from converter.cli.completion import sources
from converter.cli.console import progress_bar
from converter.cli.options import GroupedCommand, section
from converter.cli.output import print_outcome
from converter.cli.recipe_option import SAVE, write_recipe

_EPILOG = """\b
Examples:
  converter split fixtures/bert-gpt2-tiny-tf halves
  converter split fixtures/bert-gpt2-tiny-tf halves16 --to pytorch --dtype float16"""


@click.command("split", cls=GroupedCommand, epilog=_EPILOG)
@click.argument("source", shell_complete=sources)
@click.argument("output", type=options.PLACE)
@options.add_options(
    (
        *options.TARGET,
        *section(options.SOURCES, (options.CONFIG, options.SET, options.MAPPING)),
        *options.RUN,
        *section("How it is done", (SAVE,)),
    )
)
def command(
    source: str,
    output: str,
    settings: tuple[str, ...],
    json: bool,
    quiet: bool,
    save_recipe: Path | None,
    **wanted: Any,
) -> None:
    """Take a combined checkpoint apart.

    SOURCE is a combined model; OUTPUT/encoder and OUTPUT/decoder become checkpoints that load by
    themselves. `converter compose` of the two gives back SOURCE bit for bit.
    """
    from converter.commands.split import split

    write_recipe(save_recipe, {"source": source, "output": output}, {**wanted, "set": settings})
    with progress_bar(quiet) as progress:
        result = split(source, output, set=settings, progress=progress, **wanted)
    print_outcome(result, json=json, quiet=quiet)

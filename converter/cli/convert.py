"""``converter convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from converter.cli import options
from converter.cli.completion import sources
from converter.cli.console import progress_bar
from converter.cli.options import GroupedCommand, section
from converter.cli.output import print_outcome
from converter.cli.push_options import PUSH, pop_push_options, verify_and_push
from converter.cli.recipe_option import SAVE, write_recipe

_EPILOG = """\b
Examples:
  converter convert fixtures/bert-tiny-tf bert --to pytorch,flax
  converter convert fixtures/gpt2-tiny gpt2 --pytorch-format both --dtype bfloat16
  converter convert fixtures/bert-gpt2-tiny-tf/tf_model.h5 combined --to pytorch"""


@click.command("convert", cls=GroupedCommand, epilog=_EPILOG)
@click.argument("source", shell_complete=sources)
@click.argument("output", type=options.PLACE)
@options.add_options(
    (
        *options.TARGET,
        *section("What is written", (options.CARD,)),
        *section(options.SOURCES, (options.CONFIG, options.SET, options.SEED, options.MAPPING)),
        *PUSH,
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
    """Write a checkpoint again for other frameworks.

    SOURCE is a stand-alone or a combined model; OUTPUT becomes a directory with the same model in
    other frameworks, file formats or dtypes.
    """
    from converter.commands.convert import convert

    how = pop_push_options(wanted, output)
    write_recipe(
        save_recipe, {"source": source, "output": output}, {**wanted, "set": settings}, how
    )
    with progress_bar(quiet) as progress:
        result = convert(source, output, set=settings, progress=progress, **wanted)
    print_outcome(
        result, json=json, quiet=quiet, pushed=verify_and_push(result, how, wanted["mapping"])
    )

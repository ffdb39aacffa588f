"""``converter convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from converter.cli import options
from converter.cli.completion import sources
from converter.cli.console import progress_bar
from converter.cli.finish import finish
from converter.cli.publishing import PUSH, publish, take_push
from converter.cli.saving import SAVE, save
from converter.cli.sections import Sectioned, section

_EPILOG = """\b
Examples:
  converter convert fixtures/bert-tiny-tf bert --to pytorch,flax
  converter convert fixtures/gpt2-tiny gpt2 --pytorch-format both --dtype bfloat16
  converter convert fixtures/bert-gpt2-tiny-tf/tf_model.h5 combined --to pytorch"""


@click.command("convert", cls=Sectioned, epilog=_EPILOG)
@click.argument("source", shell_complete=sources)
@click.argument("output", type=options.PLACE)
@options.add(
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
    from converter.composition.convert import convert

    how = take_push(wanted, output)
    save(save_recipe, {"source": source, "output": output}, {**wanted, "set": settings}, how)
    with progress_bar(quiet) as progress:
        result = convert(source, output, set=settings, progress=progress, **wanted)
    finish(result, json=json, quiet=quiet, pushed=publish(result, how, wanted["mapping"]))

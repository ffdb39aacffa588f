"""``converter inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from converter.cli import options
from converter.cli.completion import sources
from converter.cli.console import emit_json, print_result, progress_bar

_EPILOG = """\b
Examples:
  converter inspect fixtures/bert-tiny
  converter inspect fixtures/gpt2-tiny --tensors
  converter inspect fixtures/bert-tiny --stats
  converter inspect fixtures/bert-tiny-tf/tf_model.h5 --json"""


@click.command("inspect", epilog=_EPILOG)
@click.argument("source", shell_complete=sources)
@options.add_options(
    (
        click.option("--tensors", is_flag=True, help="List the tensors, layers folded."),
        click.option(
            "--stats",
            is_flag=True,
            help="Read all values, too: least, largest, mean, standard deviation.",
        ),
        options.CONFIG,
        options.MAPPING,
        options.JSON,
    )
)
def command(
    source: str,
    tensors: bool,
    stats: bool,
    config: Path | None,
    mapping: tuple[Path, ...],
    json: bool,
) -> None:
    """Tell what a checkpoint is; read headers only.

    Shows the family, the file format, and how the tensors relate to the family's mapping table:
    matched, missing, unknown, of the wrong shape, or left out for a reason.
    """
    from converter.commands.inspect import inspect

    with progress_bar(not stats) as progress:
        inspection = inspect(source, config=config, mapping=mapping, stats=stats, progress=progress)
    if json:
        emit_json(inspection.to_dict())
        return
    from converter.report.inspection import describe_inspection

    print_result(describe_inspection(inspection, tensors=tensors or stats))

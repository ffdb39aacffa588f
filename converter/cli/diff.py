"""``converter diff``."""

from __future__ import annotations

from pathlib import Path

import click

from converter.cli import options
from converter.cli.completion import sources
from converter.cli.console import emit_json, print_result, progress_bar

_EPILOG = """\b
Examples:
  converter diff fixtures/bert-tiny fixtures/bert-tiny-tf
  converter diff fixtures/bert-tiny/model.safetensors fixtures/bert-tiny-flax --json
  converter diff gpt2/model.safetensors gpt2/pytorch_model.bin --tolerance 1e-3

A and B may be of any formats, frameworks and dtypes; names and layouts are made alike first."""


@click.command("diff", epilog=_EPILOG)
@click.argument("first", metavar="A", shell_complete=sources)
@click.argument("second", metavar="B", shell_complete=sources)
@options.add_options(
    (
        click.option(
            "--tolerance",
            type=click.FloatRange(min=0),
            metavar="X",
            default=0.0,
            show_default=True,
            help="Largest absolute difference that still counts as equal.",
        ),
        click.option("--first-config", type=options.FILE, help="config.json of A."),
        click.option("--second-config", type=options.FILE, help="config.json of B."),
        options.MAPPING,
        options.JSON,
        options.JOBS,
    )
)
def command(
    first: str,
    second: str,
    tolerance: float,
    first_config: Path | None,
    second_config: Path | None,
    mapping: tuple[Path, ...],
    json: bool,
    jobs: int | None,
) -> int:
    """Compare two checkpoints, tensor by tensor.

    For every tensor that is not the same in both: the largest and the mean absolute difference,
    and the cosine between the two; layers that differ alike are folded. The exit code is 1 if
    anything differs.
    """
    from converter.commands.diff import diff

    with progress_bar() as progress:
        found = diff(
            first,
            second,
            tolerance=tolerance,
            first_config=first_config,
            second_config=second_config,
            mapping=mapping,
            jobs=jobs,
            progress=progress,
        )
    if json:
        emit_json(found.to_dict())
    else:
        from converter.report.verification import describe_comparison

        print_result(describe_comparison(found))
    return int(not found.equal)

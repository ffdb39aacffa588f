"""``converter verify``."""

from __future__ import annotations

from pathlib import Path

import click

from converter.cli import options
from converter.cli.completion import sources
from converter.cli.console import emit_json, print_result, progress_bar

_EPILOG = """\b
Examples:
  converter verify fixtures/bert-gpt2-tiny-tf
  converter verify bert2gpt2 --against fixtures/bert-tiny --against fixtures/gpt2-tiny
  converter verify bert2gpt2 --html bert2gpt2.html
  converter verify bert2bert --json

Of two sources of one family, give the encoder first."""


@click.command("verify", epilog=_EPILOG)
@click.argument("directory", metavar="DIR")
@options.add_options(
    (
        click.option(
            "--against",
            metavar="SOURCE",
            multiple=True,
            shell_complete=sources,
            help="What it was made from; may repeat. What came from there must equal it.",
        ),
        click.option(
            "--native",
            is_flag=True,
            help="Read each file with its framework's own library, too.",
        ),
        click.option(
            "--run", is_flag=True, help="Load and run it with transformers' own classes, too."
        ),
        click.option(
            "--python",
            metavar="INTERPRETER",
            help="The interpreter for --run, which has transformers.  [default: this one]",
        ),
        click.option(
            "--html",
            metavar="FILE",
            type=options.OUTPUT,
            help="Write a page to look at: origins, distributions, differences, warnings.",
        ),
        options.MAPPING,
        options.JSON,
        options.JOBS,
    )
)
def command(
    directory: str,
    against: tuple[str, ...],
    native: bool,
    run: bool,
    python: str | None,
    html: Path | None,
    mapping: tuple[Path, ...],
    json: bool,
    jobs: int | None,
) -> int:
    """Prove that a checkpoint is what it should be.

    Its files are whole and hold the same values bit for bit, every tensor is there and none
    besides, tied weights agree, token ids lie inside the vocabularies, and the manifest holds.
    Checkpoints that other tools made have no manifest; all else is proven of them, too. The exit
    code is 1 if anything is wrong.
    """
    from converter.commands.verify import verify

    with progress_bar() as progress:
        found = verify(
            directory,
            against=against,
            native=native,
            run=run,
            python=python,
            value_report=html is not None,
            mapping=mapping,
            jobs=jobs,
            progress=progress,
        )
    if html is not None:
        from converter.report.html import page

        html.write_text(page(found), encoding="utf-8")
    if json:
        emit_json(found.to_dict())
    else:
        from converter.report.verification import describe_verification

        print_result(describe_verification(found))
    return int(not found.verified)

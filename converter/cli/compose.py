"""``converter compose``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from converter.cli import options
from converter.cli.console import progress_bar
from converter.cli.finish import finish

_EPILOG = """\b
Examples:
  converter compose fixtures/bert-tiny fixtures/gpt2-tiny bert2gpt2
  converter compose fixtures/bert-tiny fixtures/bert-tiny bert2bert --to pytorch,flax
  converter compose fixtures/bert-tiny fixtures/gpt2-tiny half --dtype float16 --seed 7
  converter compose fixtures/bert-tiny fixtures/gpt2-tiny planned --dry-run

The decoder's cross-attention is fresh, as is the projection between halves of different width:
train the result before you use it."""


@click.command("compose", epilog=_EPILOG)
@click.argument("encoder")
@click.argument("decoder")
@click.argument("output", type=options.OUTPUT)
@options.add(
    (
        *options.TARGET,
        options.SEED,
        click.option(
            "--init",
            type=click.Choice(options.INITIALISERS),
            default="normal",
            show_default=True,
            help="How fresh cross-attention is drawn; normal is the family's own rule.",
        ),
        click.option(
            "--tokenizer",
            type=click.Choice(options.TOKENIZERS),
            default="both",
            show_default=True,
            help="Whose tokenizer files to copy.",
        ),
        click.option(
            "--decoder-start-token", metavar="ID|TOKEN", help="Token that generation starts with."
        ),
        click.option("--pad-token", metavar="ID|TOKEN", help="Token that pads."),
        click.option("--eos-token", metavar="ID|TOKEN", help="Token that ends a text."),
        options.SET,
        options.MAPPING,
        click.option("--encoder-config", type=options.FILE, help="config.json of the encoder."),
        click.option("--decoder-config", type=options.FILE, help="config.json of the decoder."),
        *options.RUN,
    )
)
def command(
    encoder: str,
    decoder: str,
    output: Path,
    settings: tuple[str, ...],
    json: bool,
    quiet: bool,
    **wanted: Any,
) -> None:
    """Join an encoder and a decoder into one checkpoint.

    OUTPUT becomes a directory that PyTorch, TensorFlow and Flax load as an encoder-decoder model,
    with the same numbers in all of them.
    """
    from converter.composition.compose import compose

    with progress_bar(quiet) as progress:
        result = compose(encoder, decoder, output, set=settings, progress=progress, **wanted)
    finish(result, json=json, quiet=quiet)

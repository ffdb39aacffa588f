"""``converter compose``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from converter.cli import completion, options
from converter.cli.console import progress_bar
from converter.cli.options import GroupedCommand, section
from converter.cli.output import print_outcome
from converter.cli.push_options import PUSH, pop_push_options, verify_and_push
from converter.cli.recipe_option import SAVE, write_recipe

_EPILOG = """\b
Examples:
  converter compose fixtures/bert-tiny fixtures/gpt2-tiny bert2gpt2
  converter compose fixtures/bert-tiny fixtures/bert-tiny bert2bert --to pytorch,flax
  converter compose fixtures/bert-tiny fixtures/gpt2-tiny half --dtype float16 --seed 7
  converter compose fixtures/bert-tiny fixtures/gpt2-tiny planned --dry-run
  converter compose fixtures/bert-tiny fixtures/bert-tiny shared --preset bertshare
  converter compose fixtures/bert-tiny fixtures/gpt2-tiny rnd2gpt --random encoder
  converter compose fixtures/bert-tiny fixtures/gpt2-tiny short --layers decoder=last:1

`converter families` lists the presets. The decoder's cross-attention is newly initialized, as is
the projection between different hidden sizes: train the result before you use it."""


def _halves(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """The halves that are named, ``both`` standing for each of them."""
    return options.SUBMODELS if "both" in values else tuple(dict.fromkeys(values))


@click.command("compose", cls=GroupedCommand, epilog=_EPILOG)
@click.argument("encoder", shell_complete=completion.sources)
@click.argument("decoder", shell_complete=completion.sources)
@click.argument("output", type=options.PLACE)
@options.add_options(
    (
        *options.TARGET,
        *section("What is written", (options.CARD,)),
        *section(
            "How the halves are joined",
            (
                click.option(
                    "--preset",
                    metavar="NAME",
                    shell_complete=completion.recipes,
                    help="A configuration of the literature, such as bertshare or bert2rnd.",
                ),
                click.option(
                    "--random",
                    type=click.Choice(options.RANDOM),
                    multiple=True,
                    callback=_halves,
                    help="Draw all weights of a half anew, from its configuration alone.",
                ),
                click.option(
                    "--share",
                    is_flag=True,
                    help="Let the halves share their weights; both must be one checkpoint.",
                ),
                click.option(
                    "--layers",
                    metavar="HALF=LAYERS",
                    multiple=True,
                    help="Take some layers only: 0,2,4 or first:6, last:6, even:6. May repeat.",
                ),
                options.SEED,
                click.option(
                    "--init",
                    type=click.Choice(options.INITIALISERS),
                    default="normal",
                    show_default=True,
                    help="How fresh cross-attention begins; normal is the family's own rule.",
                ),
            ),
        ),
        *section(
            "Tokens and embeddings",
            (
                click.option(
                    "--tokenizer",
                    type=click.Choice(options.TOKENIZERS),
                    default="both",
                    show_default=True,
                    help="Whose tokenizer files to copy.",
                ),
                click.option(
                    "--resize-embeddings",
                    is_flag=True,
                    help="Let embeddings and heads be as large as each half's tokenizer.",
                ),
                click.option(
                    "--resize-with",
                    type=click.Choice(options.NEW_ROWS),
                    default="mean",
                    show_default=True,
                    help="What further rows hold; normal is the family's own rule.",
                ),
                click.option(
                    "--decoder-start-token",
                    metavar="ID|TOKEN",
                    help="Token that generation starts with.",
                ),
                click.option("--pad-token", metavar="ID|TOKEN", help="Token that pads."),
                click.option("--eos-token", metavar="ID|TOKEN", help="Token that ends a text."),
            ),
        ),
        *section(
            options.SOURCES,
            (
                options.SET,
                options.MAPPING,
                click.option(
                    "--encoder-config", type=options.FILE, help="config.json of the encoder."
                ),
                click.option(
                    "--decoder-config", type=options.FILE, help="config.json of the decoder."
                ),
            ),
        ),
        *PUSH,
        *options.RUN,
        *section("How it is done", (SAVE,)),
    )
)
def command(
    encoder: str,
    decoder: str,
    output: str,
    settings: tuple[str, ...],
    json: bool,
    quiet: bool,
    save_recipe: Path | None,
    **wanted: Any,
) -> None:
    """Join an encoder and a decoder into one checkpoint.

    OUTPUT becomes a directory that PyTorch, TensorFlow and Flax load as an encoder-decoder model,
    with the same numbers in all of them.
    """
    from converter.commands.compose import compose

    how = pop_push_options(wanted, output)
    places = {"encoder": encoder, "decoder": decoder, "output": output}
    write_recipe(save_recipe, places, {**wanted, "set": settings}, how)
    with progress_bar(quiet) as progress:
        result = compose(encoder, decoder, output, set=settings, progress=progress, **wanted)
    print_outcome(
        result, json=json, quiet=quiet, pushed=verify_and_push(result, how, wanted["mapping"])
    )

"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from converter.cli.completion import comma_separated
from converter.cli.console import LEVELS, show_logs

Decorator = Callable[[Any], Any]

_OTHER = "Other options"


class GroupedCommand(click.Command):
    """A command whose help lists its options under the titles that `section` gave them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list a section, in the order in which sections begin; the others last."""
        lists: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record and isinstance(param, click.Option):
                lists.setdefault(getattr(param, "section", _OTHER), []).append(record)
        for title in sorted(lists, key=lambda title: title == _OTHER):
            with formatter.section(title):
                formatter.write_dl(lists[title])


def section(title: str, options: Sequence[Decorator]) -> tuple[Decorator, ...]:
    """`options`, to be listed under `title`."""
    return tuple(_under(title, option) for option in options)


def _under(title: str, option: Decorator) -> Decorator:
    def decorate(function: Any) -> Any:
        decorated = option(function)
        decorated.__click_params__[-1].section = title
        return decorated

    return decorate


Function = TypeVar("Function", bound=Callable[..., Any])

# The literals below are those of `converter.options` and `converter.architectures`, which bring
# numpy along; a test compares them.
FRAMEWORKS = ("pytorch", "tensorflow", "flax")
PYTORCH_FORMATS = ("safetensors", "bin", "both")
DTYPES = ("keep", "float32", "float16", "bfloat16")
INITIALISERS = ("normal", "truncated-normal", "xavier", "zero-output", "copy-self-attention")
SUBMODELS = ("encoder", "decoder")
NEW_ROWS = ("mean", "normal")
RANDOM = (*SUBMODELS, "both")
TOKENIZERS = ("encoder", "decoder", "both", "none")

FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
OUTPUT = click.Path(path_type=Path)
PLACE = click.Path()
"""A path or a URL, as it was given: a `Path` would take one of the slashes of ``s3://``."""


def _frameworks(
    ctx: click.Context, param: click.Parameter, values: Sequence[str]
) -> tuple[str, ...] | None:
    """Names of frameworks with commas between them, from all uses; ``None`` if there is none."""
    names = [name.strip() for value in values for name in value.split(",")]
    for name in names:
        if name not in FRAMEWORKS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(FRAMEWORKS)}.", ctx, param)
    return tuple(dict.fromkeys(names)) or None


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A number of bytes such as ``512MB``."""
    if value is None or ctx.resilient_parsing:  # the shell asks for completions, and is in a hurry
        return None
    from converter.errors import UsageError
    from converter.option_declaration import parse_size

    try:
        return parse_size(value)
    except UsageError as error:
        message = f"{error.message}; write it like 512MB or 2GiB."
        raise click.BadParameter(message, ctx, param) from error


LOG_LEVEL = click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    envvar="CONVERTER_LOG_LEVEL",
    expose_value=False,
    is_eager=True,
    callback=show_logs,
    metavar="LEVEL",
    help="Log to standard error: warning, info (choices and fetches) or debug (each tensor).",
)


def add_options(options: Sequence[Decorator]) -> Callable[[Function], Function]:
    """Decorate with `options`, listed in help in the given order, and `LOG_LEVEL`."""

    def decorate(function: Function) -> Function:
        for option in reversed((*options, LOG_LEVEL)):
            function = option(function)
        return function

    return decorate


MAPPING = click.option(
    "--mapping",
    type=FILE,
    multiple=True,
    help="A mapping table of your own; may repeat.",
)
JSON = click.option("--json", is_flag=True, help="Print one JSON document instead of text.")
JOBS = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    envvar="CONVERTER_JOBS",
    help="Threads.  [default: one a processor, at most 4]",
)
CONFIG = click.option(
    "--config", type=FILE, help="config.json, where none lies beside the weights."
)
SEED = click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of weights that are drawn anew."
)
SOURCES = "What it is made from"
"""Title of the options that concern the sources."""

SET = click.option(
    "--set",
    "settings",
    metavar="[HALF.]KEY=VALUE",
    multiple=True,
    help="Set a field of config.json; HALF is encoder or decoder. May repeat.",
)

TARGET = section(
    "What is written",
    (
        click.option(
            "--to",
            multiple=True,
            callback=_frameworks,
            shell_complete=comma_separated(FRAMEWORKS),
            metavar="FRAMEWORK[,...]",
            help=f"Frameworks to write for: {', '.join(FRAMEWORKS)}.  [default: all that can]",
        ),
        click.option(
            "--pytorch-format",
            type=click.Choice(PYTORCH_FORMATS),
            default="safetensors",
            show_default=True,
            help="File format for PyTorch; bin is pytorch_model.bin.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(DTYPES),
            default="keep",
            show_default=True,
            help="Cast floating-point weights.",
        ),
        click.option(
            "--max-shard-size",
            metavar="SIZE",
            callback=_size,
            help="Split larger weight files, at this size.  [default: whole files]",
        ),
    ),
)

CARD = click.option(
    "--card",
    type=FILE,
    help="A model card (README.md) of your own, instead of the one that is made.",
)

RUN = section(
    "How it is done",
    (
        click.option("--overwrite", is_flag=True, help="Replace a checkpoint that lies at OUTPUT."),
        click.option("--dry-run", is_flag=True, help="Print the complete plan and write nothing."),
        JSON,
        click.option("--quiet", "-q", is_flag=True, help="No progress and no summary."),
        JOBS,
        click.option(
            "--memory",
            metavar="SIZE",
            callback=_size,
            envvar="CONVERTER_MEMORY",
            default="512MB",
            show_default=True,
            help="Bytes that working buffers may take.",
        ),
        click.option(
            "--checksums", is_flag=True, help="Put SHA-256 of whole files in the manifest."
        ),
        click.option(
            "--resume",
            is_flag=True,
            help="Keep what is written when interrupted; go on from what such a run has kept.",
        ),
    ),
)

"""The command line: a thin shell over the functions of the same names.

Each command is one module with a ``command``, and one line in `COMMANDS`. It is imported when it is
used, so that ``converter --help`` starts fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from itertools import takewhile
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from converter.cli.options import GENERAL

COMMANDS = {
    "compose": "Join an encoder and a decoder into one checkpoint.",
    "convert": "Convert a checkpoint to other frameworks.",
    "split": "Split a checkpoint into encoder and decoder.",
    "inspect": "Describe a checkpoint, from its headers only.",
    "verify": "Verify a finished checkpoint.",
    "diff": "Compare two checkpoints, tensor by tensor.",
    "push": "Upload a checkpoint to the Hub.",
    "run": "Run the jobs in recipe files.",
    "families": "List the supported models, or describe one.",
    "check-table": "Check mapping tables of your own.",
    "env": "Print versions and settings, for the report of a bug.",
    "app": "Open a page in the browser to compose, convert and rescue.",
}
"""Command → the first line of its help, which ``converter --help`` shows."""

_HELP = {"help": "Show the help of a command."}
"""Not a command of its own: ``converter help compose`` is ``converter compose --help``."""

_EPILOG = """\b
Examples:
  converter compose google-bert/bert-base-uncased openai-community/gpt2 bert2gpt2
  converter inspect bert2gpt2
  converter verify bert2gpt2

A checkpoint is a directory with config.json and weights, a weight file, a Hub id
org/name[@revision], or a URL such as s3://bucket/name.
See also `converter help COMMAND`."""


class Commands(click.Group):
    """The group of all commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"converter.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, and suggest another one if it is misspelled."""
        name = args[0]
        if name in _HELP and not ctx.resilient_parsing:
            asked = [each for each in args[1:] if each not in ctx.help_option_names]
            if asked:
                return self.resolve_command(ctx, [asked[0], ctx.help_option_names[0]])
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()
        if name in COMMANDS or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        close = get_close_matches(name, [*COMMANDS, *_HELP], n=2)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise click.UsageError(f"No such command {name!r}.{hint}", ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the commands without importing them, and the group's own options."""
        commands = [
            CompletionItem(name, help=text)
            for name, text in (COMMANDS | _HELP).items()
            if name.startswith(incomplete)
        ]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list((COMMANDS | _HELP).items()))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run one command line and exit with its code."""
        arguments = list(sys.argv[1:] if args is None else args) or ["--help"]
        # Looked for before anything is parsed, since a wrong option is reported as JSON as well.
        json = "--json" in takewhile(lambda argument: argument != "--", arguments)
        from converter.cli.error_handling import run_with_error_handling
        from converter.display import SURFACE
        from converter.text import remember_secrets

        for url in (argument for argument in arguments if "://" in argument):
            remember_secrets(url.rpartition("=")[2] if url.startswith("--") else url)

        def call(signals: object) -> object:
            name, token = prog_name or "converter", SURFACE.set("command line")
            try:
                return click.Group.main(
                    self, arguments, name, complete_var, False, obj=signals, **extra
                )
            finally:
                SURFACE.reset(token)

        sys.exit(run_with_error_handling(call, json))


@click.group(
    cls=Commands,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def commands() -> None:
    """Compose and convert checkpoints for PyTorch, TensorFlow and Flax."""


commands.params += GENERAL


def main() -> NoReturn:
    """Run the console script."""
    # OpenBLAS is not used: its threads would only cost time and memory at the start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if sys.stderr is None or not sys.stderr.isatty():  # the Hub client has its own bars
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    commands.main()

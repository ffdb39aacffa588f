"""The command line: a thin shell over the functions of the same names.

A command is one module here, named like it, with a ``command`` and one line in `COMMANDS`. Modules
are imported when their command is used, so that ``converter --help`` starts in a blink.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import takewhile
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from converter._version import __version__
from converter.cli import options

COMMANDS = {
    "compose": "Join an encoder and a decoder into one checkpoint.",
    "convert": "Write a checkpoint again for other frameworks.",
    "split": "Take a combined checkpoint apart.",
    "inspect": "Tell what a checkpoint is; read headers only.",
    "verify": "Prove that a checkpoint is what it should be.",
    "diff": "Compare two checkpoints, tensor by tensor.",
    "push": "Upload a checkpoint to the Hub.",
    "run": "Make the checkpoints of recipes.",
    "families": "List the supported models, or describe one.",
    "check-table": "Check mapping tables of your own.",
}
"""Every command, with the first line of its help: what ``converter --help`` shows."""

_EPILOG = """\b
Examples:
  converter compose fixtures/bert-tiny fixtures/gpt2-tiny bert2gpt2
  converter inspect bert2gpt2

A checkpoint is a directory with config.json and weights, one weight file, an id of
the Hub, org/name[@revision], or a URL such as s3://bucket/name.
`converter COMMAND --help` tells more."""


class Commands(click.Group):
    """The group of all commands, each imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help text."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"converter.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the commands without importing them, and the group's own options."""
        commands = [
            CompletionItem(name, help=text)
            for name, text in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run one command line and leave with the exit code of the contract."""
        arguments = list(sys.argv[1:] if args is None else args) or ["--help"]
        # Looked for before anything is parsed, since a wrong option must be told in JSON as well.
        json = "--json" in takewhile(lambda argument: argument != "--", arguments)
        from converter.cli.error_handling import run_with_error_handling

        def call() -> object:
            return click.Group.main(
                self, arguments, prog_name or "converter", complete_var, False, **extra
            )

        sys.exit(run_with_error_handling(call, json))


@click.group(
    cls=Commands,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="converter")
@options.LOG_LEVEL
def commands() -> None:
    """Compose and convert checkpoints for PyTorch, TensorFlow and Flax."""


def main() -> NoReturn:
    """The console script."""
    # Nothing here uses OpenBLAS, whose threads would only cost time and memory at the start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if sys.stderr is None or not sys.stderr.isatty():  # the Hub's client has bars of its own
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    commands.main()

"""Writes `commands.md`, the help text of every command: ``python docs/commands.py``."""

from __future__ import annotations

from pathlib import Path

import click

from converter.cli import COMMANDS, commands

PAGE = Path(__file__).with_name("commands.md")
_WIDTH = 88
_INTRODUCTION = """# Commands

What `converter COMMAND --help` prints. This page is made by `python docs/commands.py`.

Results and JSON go to standard output; progress, warnings and errors to standard error. The exit
code is 0 when the work is done, 1 when it failed, 2 when the call itself is wrong, and 130, 143 or
129 when it was interrupted by Ctrl-C, SIGTERM or SIGHUP. With `--json` standard output holds
exactly one JSON document, also on failure:
`{"error": {"kind": …, "message": …, "problems": […], "remedy": …}}`.
"""


def text() -> str:
    """Return the page."""
    group = _context(commands, "converter")
    parts = [_INTRODUCTION, _block(commands.get_help(group))]
    for name in COMMANDS:
        command = commands.get_command(group, name)
        assert command is not None
        help_text = command.get_help(_context(command, name, group))
        parts += [f"## converter {name}\n", _block(help_text)]
    return "\n".join(parts)


def _context(
    command: click.Command, name: str, parent: click.Context | None = None
) -> click.Context:
    return command.make_context(
        name, [], parent, resilient_parsing=True, terminal_width=_WIDTH, max_content_width=_WIDTH
    )


def _block(help_text: str) -> str:
    return f"```text\n{help_text.rstrip()}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")

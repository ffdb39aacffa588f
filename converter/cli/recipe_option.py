"""``--save-recipe`` of the commands that write a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from converter.cli import options

SAVE = click.option(
    "--save-recipe",
    type=options.OUTPUT,
    metavar="FILE",
    help="Write this command as a recipe, too; see `converter run`.",
)


def write_recipe(
    path: Path | None,
    places: Mapping[str, object],
    wanted: Mapping[str, Any],
    how: Mapping[str, Any] | None = None,
) -> None:
    """Write the recipe of the command that runs, with what was given on the command line.

    Args:
        path: the file; nothing is written without.
        places: its arguments.
        wanted: its options.
        how: the options that `take_push` took.

    Raises:
        OutputError: if it cannot be written.

    """
    if path is None:
        return
    from converter.recipes.writer import save_recipe

    context = click.get_current_context()
    given = {
        name: value
        for name, value in wanted.items()
        if context.get_parameter_source("settings" if name == "set" else name)
        is click.core.ParameterSource.COMMANDLINE
    }
    pushed = {**how, "repo_id": how["push"]} if how and how["push"] else {}
    save_recipe(path, str(context.info_name), {**places, **given}, pushed)

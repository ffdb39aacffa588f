"""``converter families``."""

from __future__ import annotations

from pathlib import Path

import click

from converter.cli import completion, options
from converter.cli.console import emit_json, print_result

_EPILOG = """\b
Examples:
  converter families
  converter families gpt2
  converter families encoder-decoder --json"""


@click.command("families", epilog=_EPILOG)
@click.argument("name", required=False, shell_complete=completion.families)
@options.add_options((options.MAPPING, options.JSON))
def command(name: str | None, mapping: tuple[Path, ...], json: bool) -> None:
    """List the supported models, or describe one.

    NAME is a family (a model_type of config.json) or a composite. The list ends with the recipes
    that `converter compose --preset` knows.
    """
    from converter.architectures.registry import ArchitectureRegistry
    from converter.report.families import catalogue, describe_catalogue, describe_details, details

    registry = ArchitectureRegistry(mapping)
    found = details(registry, name) if name else catalogue(registry)
    if json:
        emit_json(found)
    else:
        print_result(describe_details(found) if name else describe_catalogue(found))

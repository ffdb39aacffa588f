"""``converter families``."""

from __future__ import annotations

from pathlib import Path

from converter.cli.console import emit_json, print_result
from converter.cli.options import command as make_command
from converter.options import FamiliesOptions

_EPILOG = """\b
Examples:
  converter families
  converter families gpt2
  converter families gpt2 --rows
  converter families encoder-decoder --json"""


@make_command("families", FamiliesOptions, _EPILOG)
def command(name: str | None, mapping: tuple[str, ...], rows: bool, json: bool) -> None:
    """List the supported models, or describe one.

    NAME is an architecture (a model_type of config.json) or a composite. The list ends with the
    presets of `converter compose --preset`.
    """
    from converter.architectures.registry import ArchitectureRegistry
    from converter.errors import UsageError
    from converter.report.families import catalog, describe_catalog, describe_details, details

    registry = ArchitectureRegistry(map(Path, mapping))
    if rows and not name:
        raise UsageError("--rows requires NAME", remedy="Name an architecture or a composite.")
    described = details(registry, name, rows) if name else catalog(registry)
    if json:
        emit_json(described)
    else:
        print_result(describe_details(described) if name else describe_catalog(described))

"""``converter families``."""

from __future__ import annotations

from typing import Any

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
def command(json: bool, **values: Any) -> None:
    """List the supported models, or describe one.

    NAME is an architecture (a model_type of config.json) or a composite. The list ends with the
    presets of `converter compose --preset`.
    """
    from converter.commands.families import families

    result = families(**values)
    if json:
        emit_json(result.to_dict())
    else:
        from converter.report.families import describe_families

        print_result(describe_families(result), styled=True)

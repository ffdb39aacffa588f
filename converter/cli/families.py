"""``converter families``."""

from __future__ import annotations

from typing import Any

from converter.cli.console import emit_json, print_result
from converter.cli.options import GroupedOption
from converter.cli.options import command as make_command
from converter.options import FamiliesOptions

_EPILOG = """\b
Examples:
  converter families
  converter families gpt2
  converter families gpt --long
  converter families --role decoder --framework flax
  converter families gpt2 --rows
  converter families encoder-decoder --json"""


_LONG = GroupedOption(
    ["--long"],
    is_flag=True,
    help="List also why frameworks are left out, classes of composites, and presets in full.",
)


@make_command("families", FamiliesOptions, _EPILOG, (_LONG,))
def command(long: bool, json: bool, **values: Any) -> None:
    """List the supported models, or describe one.

    NAME is an architecture (a model_type of config.json) or a composite, which is described; the
    first letters of several names, or a pattern such as 'gpt*', list those. The complete list ends
    with the presets of `converter compose --preset`.
    """
    from converter.commands.families import families

    result = families(**values)
    if json:
        emit_json(result.to_dict())
    else:
        from converter.report.families import describe_families

        print_result(describe_families(result, long=long), styled=True)

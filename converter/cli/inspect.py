"""``converter inspect``."""

from __future__ import annotations

from typing import Any

from converter.cli.console import emit_json, print_report, progress_bar
from converter.cli.options import GroupedOption
from converter.cli.options import command as make_command
from converter.options import InspectOptions

_EPILOG = """\b
Examples:
  converter inspect google-bert/bert-base-uncased
  converter inspect bert2gpt2 --tensors
  converter inspect bert2gpt2 --stats
  converter inspect bert2gpt2/tf_model.h5 --json"""

_TENSORS = GroupedOption(["--tensors"], is_flag=True, help="List the tensors, layers folded.")


@make_command("inspect", InspectOptions, _EPILOG, (_TENSORS,))
def command(tensors: bool, json: bool, **values: Any) -> int:
    """Describe a checkpoint, from its headers only.

    Shows the architecture, the file format, and how the tensors match the architecture's mapping
    table: matched, missing, unknown, of the wrong shape, or ignored for a reason. The exit code is
    1 if they do not fit. Without a configuration it names the likely architecture.
    """
    from converter.commands.inspect import inspect

    with progress_bar(not values["stats"]) as progress:
        inspection = inspect(**values, progress=progress)
    if json:
        emit_json(inspection.to_dict())
    else:
        from converter.report.inspection import describe_inspection

        text = describe_inspection(inspection, tensors=tensors or values["stats"])
        print_report(text, styled=True)
    return int(inspection.fits is False)

"""``converter check-table``."""

from __future__ import annotations

from typing import Any

from converter.cli.console import emit_json, is_quiet, print_message, print_report, print_result
from converter.cli.options import command as make_command
from converter.options import CheckTableOptions

_EPILOG = """\b
Examples:
  converter check-table mine.toml
  converter check-table mine.toml other.toml --json
  converter check-table --draft bert
  converter check-table --draft bert --output new.toml"""


@make_command("check-table", CheckTableOptions, _EPILOG)
def command(json: bool, **values: Any) -> int:
    """Check mapping tables of your own.

    Looks for names claimed twice, sizes of unknown fields, rows that are never used, and rules
    that are not reversible, and counts what a draft still leaves to decide. The exit code is 1 if
    there is any problem; a table that is only unfinished can be used.
    """
    from converter.commands.check_table import check_table

    result = check_table(**values)
    if json:
        emit_json(result.to_dict())
    elif result.draft is None:
        from converter.report.families import describe_check

        print_report(describe_check(result), styled=True)
    elif values["output"] is None:
        print_result(result.draft.rstrip())
    elif not is_quiet():
        (number,) = map(len, result.marks.values())
        print_message(f'{values["output"]}: written, with {number} marks "decide:"')
        print_message(f"Decide them, and see `converter check-table {values['output']}`")
    return int(not result.valid)

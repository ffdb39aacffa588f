"""``converter check-table``."""

from __future__ import annotations

from typing import Any

from converter.cli.console import emit_json, print_report, print_result
from converter.cli.options import command as make_command
from converter.options import CheckTableOptions

_EPILOG = """\b
Examples:
  converter check-table mappings/bert.toml
  converter check-table mappings/gpt2.toml mappings/electra.toml --json
  converter check-table --draft fixtures/bert-tiny"""


@make_command("check-table", CheckTableOptions, _EPILOG)
def command(json: bool, **values: Any) -> int:
    """Check mapping tables of your own.

    Looks for names claimed twice, sizes of unknown fields, rows that are never used, and rules
    that are not reversible. The exit code is 1 if there is any problem.
    """
    from converter.commands.check_table import check_table

    result = check_table(**values)
    if json:
        emit_json(result.to_dict())
    elif result.draft is not None:
        print_result(result.draft.rstrip())
    else:
        from converter.report.rich_text import count
        from converter.text import printable

        for file, problems in result.problems.items():
            verdict = count(len(problems), "problem") if problems else "good"
            print_report(f"{printable(file)}: {verdict}")
            for problem in problems:
                print_report(f"  - {printable(str(problem))}")
    return int(not result.valid)

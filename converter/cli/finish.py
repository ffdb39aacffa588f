"""The end of every command that writes a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converter.cli.console import emit, emit_json, warn

if TYPE_CHECKING:
    from converter.composition.production import Result


def finish(result: Result, *, json: bool, quiet: bool) -> None:
    """Tell what was written, or planned; warnings always, the summary unless `quiet`."""
    for warning in result.warnings:
        warn(warning)
    if json:
        emit_json(result.to_dict())
    elif not result.written:
        from converter.report.plan import describe_plan

        emit(describe_plan(result))
    elif not quiet:
        from converter.report.result import describe_result

        emit(describe_result(result))

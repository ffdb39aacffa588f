"""The end of every command that writes a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converter.cli.console import emit, emit_json, warn

if TYPE_CHECKING:
    from converter.composition.production import Result
    from converter.hub.push import Pushed


def finish(result: Result, *, json: bool, quiet: bool, pushed: Pushed | None = None) -> None:
    """Tell what was written, planned or pushed; warnings always, the summary unless `quiet`."""
    for warning in result.warnings:
        warn(warning)
    if json:
        more = {"pushed": pushed.to_dict()} if pushed else {}
        emit_json({**result.to_dict(), **more})
    elif not result.written:
        from converter.report.plan import describe_plan

        emit(describe_plan(result))
    elif not quiet:
        from converter.report.result import describe_result

        emit(describe_result(result))
    if pushed and not json:
        from converter.cli.push import tell

        tell(pushed)

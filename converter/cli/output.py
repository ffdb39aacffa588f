"""The end of every command that writes a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converter.cli.console import emit_json, print_result, warn

if TYPE_CHECKING:
    from converter.execution.write_checkpoint import WriteResult
    from converter.storage.hub_upload import PushResult


def print_outcome(
    result: WriteResult, *, json: bool, quiet: bool, pushed: PushResult | None = None
) -> None:
    """Tell what was written, planned or pushed; warnings always, the summary unless `quiet`."""
    for warning in result.warnings:
        warn(warning)
    if json:
        more = {"pushed": pushed.to_dict()} if pushed else {}
        emit_json({**result.to_dict(), **more})
    elif not result.written:
        from converter.report.write_result import describe_plan

        print_result(describe_plan(result))
    elif not quiet:
        from converter.report.write_result import describe_result

        print_result(describe_result(result))
    if pushed and not json:
        from converter.cli.push import print_push_result

        print_push_result(pushed)

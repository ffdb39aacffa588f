"""``converter run``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converter.cleanup import EndingSignals
from converter.cli.console import (
    emit_json,
    is_quiet,
    is_terminal,
    print_message,
    print_report,
    print_result,
    wrapped,
)
from converter.cli.error_handling import error_lines
from converter.cli.options import NEW_FILE, GroupedCommand, GroupedOption
from converter.cli.options import command as make_command
from converter.options import RunOptions

if TYPE_CHECKING:
    from converter.recipes.job import JobResult, RunSummary

_EPILOG = """\b
Examples:
  converter run recipes.yaml
  converter run bert.yaml gpt2.json --jobs 2 --keep-going --summary done.json
  converter run recipes.yaml --var results=made --dry-run
  converter run recipes.yaml --only fp16 --force
  converter run recipes.yaml --engine dask --jobs 4

Relative paths in a recipe start at the working directory."""

_SUMMARY = GroupedOption(
    ["--summary"], type=NEW_FILE, metavar="FILE", help="Write the result of every job as JSON."
)


class _RunCommand(GroupedCommand):
    """The command, whose option ``--force`` may be without a value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; ``--force`` in front of an option or a recipe means all jobs."""
        following = [*args, "-"][1:]
        return super().parse_args(
            ctx,
            [
                "--force=*"
                if each == "--force" and (after.startswith("-") or Path(after).is_file())
                else each
                for each, after in zip(args, following, strict=True)
            ],
        )


@make_command("run", RunOptions, _EPILOG, (_SUMMARY,), _RunCommand)
@click.pass_obj
def command(
    signals: EndingSignals, /, summary: str | None, json: bool, dry_run: bool, **values: Any
) -> int:
    """Run the jobs in recipe files.

    All jobs are planned before any is started. A job whose output is up to date is skipped. The
    exit code is 1 if any job failed, and 130 if the run was interrupted (143 by SIGTERM, 129 by
    SIGHUP); running jobs are stopped cleanly then, and the next run does the rest.
    """
    from converter.recipes.job import Interrupted
    from converter.recipes.scheduler import run

    if summary:
        _write(Path(summary), None)
    # So none interrupts between the end of a job and its entry in the summary.
    signals.deferred = True
    with _show(dry_run and not json) as (progress, on_result):
        try:
            result = run(
                **values,
                dry_run=dry_run,
                stopped=lambda: signals.received is not None,
                progress=progress,
                on_result=on_result,
            )
            code = int(not result.succeeded)
        except Interrupted as interrupt:
            result, code = interrupt.summary, signals.exit_code
    if summary:
        _write(Path(summary), result)
    if code == signals.exit_code:
        print_message(signals.message, style="bold")
    if json:
        emit_json(result.to_dict())
    else:
        counts = result.to_dict()["counts"]
        print_report(", ".join(f"{number} {status}" for status, number in counts.items() if number))
    return code


def _write(path: Path, summary: RunSummary | None) -> None:
    """Write the summary; without one, only check that this is possible."""
    from converter.safe_json import to_json
    from converter.storage.atomic_directory import write_file
    from converter.text import redact_values

    write_file(path, to_json(redact_values(summary.to_dict())) if summary else None)


@contextmanager
def _show(
    planning: bool,
) -> Iterator[tuple[Callable[[int, int, str], None], Callable[[JobResult], None]]]:
    """Show a line for each job that ends (when `planning`, the result), and a progress bar."""
    from converter.text import printable

    total = 0
    bar: Any = None
    if is_terminal(sys.stderr) and not planning and not is_quiet():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        bar = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        task = bar.add_task("", total=None)

    def progress(now: int, of: int, names: str) -> None:
        nonlocal total
        total = of
        if bar:
            bar.update(task, completed=now, total=of, description=printable(names))
            bar.start()

    def on_result(result: JobResult) -> None:
        write = print_result if planning else print_message
        prefix = f"[{result.number:{len(str(total))}}/{total}] "
        first, *more = map(printable, _lines(result))
        if is_quiet() and not planning and not more:  # neither an error nor a warning
            return
        for line in (prefix + first, *(f"  {each}" for each in more)):
            write(wrapped(line, sys.stdout) if planning else line)

    try:
        yield progress, on_result
    finally:
        if bar:
            bar.stop()


def _lines(result: JobResult) -> Iterator[str]:
    """Yield the lines that describe how a job ended."""
    job = result.job
    reason = f" ({result.reason})" if result.reason else ""
    if result.status != "planned":
        yield f"{job.name}: {result.status}{reason}"
        if result.error:
            yield from error_lines(result.error)
    elif result.after:
        yield f"{job.name}: would {job.command} to {job.output} after {', '.join(result.after)}"
    else:
        yield f"{job.name}: would {job.command} to {job.output}{reason}"
        for name, nbytes in (result.files or {}).items():
            yield f"{name}, {nbytes:,} bytes of tensors"
    if result.status != "skipped":
        yield from (f"Warning: {warning}" for warning in result.warnings)

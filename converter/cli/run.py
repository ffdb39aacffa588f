"""``converter run``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converter.cli import options
from converter.cli.console import emit_json, is_terminal, print_message, print_result
from converter.cli.error_handling import INTERRUPTED

if TYPE_CHECKING:
    from converter.recipes.job import JobResult, RunSummary

ENGINES = ("local", "dask")

_EPILOG = """\b
Examples:
  converter run recipes.yaml
  converter run bert.yaml gpt2.json --jobs 2 --keep-going --summary done.json
  converter run recipes.yaml --var results=made --dry-run
  converter run recipes.yaml --engine dask --jobs 4

Paths in a recipe start where the command is run."""


def _variables(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """The variables of all uses."""
    found = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{value!r} is not NAME=VALUE.", ctx, param)
        found[name] = text
    return found


@click.command("run", epilog=_EPILOG)
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True, type=options.FILE)
@options.add_options(
    (
        click.option(
            "--var",
            "variables",
            metavar="NAME=VALUE",
            multiple=True,
            callback=_variables,
            help="A variable of the recipes; wins over theirs. May repeat.",
        ),
        click.option(
            "--dry-run",
            is_flag=True,
            help="Tell what each job would make or skip, and write nothing.",
        ),
        click.option(
            "--jobs",
            type=click.IntRange(min=1),
            metavar="N",
            help="Jobs at once.  [default: 1; with dask, one a processor]",
        ),
        click.option("--keep-going", is_flag=True, help="Run the others where some jobs fail."),
        click.option(
            "--summary",
            type=click.Path(dir_okay=False, writable=True, path_type=Path),
            metavar="FILE",
            help="Write how all ended as JSON.",
        ),
        click.option(
            "--engine",
            type=click.Choice(ENGINES),
            default="local",
            show_default=True,
            help="Threads of this process, or processes of a dask cluster.",
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="The dask scheduler to use.  [default: processes of this machine]",
        ),
        options.JSON,
    )
)
def command(
    recipes: tuple[Path, ...], summary: Path | None, json: bool, dry_run: bool, **wanted: Any
) -> int:
    """Make the checkpoints of recipes.

    All jobs are planned before any is started. What is there already, as it would be made, is
    skipped. The exit code is 1 if any job failed, and 130 if the run was interrupted; what was
    running is ended cleanly then, and the next run does what is left.
    """
    from converter.recipes.job import Interrupted
    from converter.recipes.scheduler import run

    if summary:
        _write(summary, None)
    with _signals() as stopped, _view(dry_run and not json) as (progress, told):
        try:
            found = run(
                recipes,
                dry_run=dry_run,
                stopped=stopped,
                progress=progress,
                on_result=told,
                **wanted,
            )
            code = int(not found.succeeded)
        except Interrupted as interrupt:
            found, code = interrupt.summary, INTERRUPTED
    if summary:
        _write(summary, found)
    if code == INTERRUPTED:
        print_message("Interrupted: nothing is left half-written.", style="bold")
    if json:
        emit_json(found.to_dict())
    else:
        counts = {status: number for status, number in found.to_dict()["counts"].items() if number}
        print_result(", ".join(f"{number} {status}" for status, number in counts.items()))
    return code


def _write(path: Path, summary: RunSummary | None) -> None:
    """Write the summary, whole or not at all; without one, only see whether that can be done.

    Raises:
        OutputError: if it cannot be written.

    """
    from converter.errors import OutputError
    from converter.safe_json import to_json

    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_bytes(to_json(summary.to_dict()) if summary else b"")
        if summary:
            partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Note Ctrl-C, and SIGTERM, by which batch systems end a run; gives whether one has come.

    So none falls between the end of a job and its entry in the summary. The second one is not
    waited with: it interrupts at once.
    """
    came = threading.Event()

    def note(*args: object) -> None:
        if came.is_set():
            raise KeyboardInterrupt
        came.set()

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came.is_set
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def _view(
    planning: bool,
) -> Iterator[tuple[Callable[[int, int, str], None], Callable[[JobResult], None]]]:
    """Shows what `run` tells on the way: a line for each job that ends, and a bar on terminals.

    Args:
        planning: whether the lines are the result themselves, on standard output.

    """
    ended = total = 0
    bar: Any = None
    if is_terminal(sys.stderr) and not planning:
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
        nonlocal ended, total
        ended, total = now, of
        if bar:
            bar.update(task, completed=now, total=of, description=names)
            bar.start()

    def told(outcome: JobResult) -> None:
        write = print_result if planning else print_message
        lead = f"[{ended:{len(str(total))}}/{total}] "
        write(lead + "\n  ".join(_lines(outcome)))

    try:
        yield progress, told
    finally:
        if bar:
            bar.stop()


def _lines(outcome: JobResult) -> Iterator[str]:
    """How a job ended, for people."""
    job = outcome.job
    if outcome.status != "planned":
        yield f"{job.name}: {outcome.status}"
        if outcome.error:
            yield from str(outcome.error).splitlines()
    elif outcome.after:
        yield f"{job.name}: would {job.command} to {job.output} after {', '.join(outcome.after)}"
    else:
        yield f"{job.name}: would {job.command} to {job.output}"
        for name, nbytes in (outcome.files or {}).items():
            yield f"{name}, {nbytes:,} bytes of tensors"

"""What the commands that write a checkpoint have in common: recipe, push and result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converter.cli.console import emit_json, print_message, print_result, progress_bar, warn
from converter.cli.options import NEW_FILE, QUIET, GroupedOption, click_option
from converter.option_declaration import EXECUTION, HUB, options_of
from converter.options import PushOptions

if TYPE_CHECKING:
    from converter.execution.write_checkpoint import WriteResult
    from converter.storage.hub_upload import PushResult

_PUSH_OPTIONS = [
    each for each in options_of(PushOptions).values() if each.in_cli and not each.is_argument
]
PUSH: tuple[click.Parameter, ...] = (
    GroupedOption(
        ["--push"],
        metavar="REPO_ID",
        help="Verify the result and upload it, see `converter push`.",
        group=HUB,
    ),
    *map(click_option, _PUSH_OPTIONS),
)
WRITING: tuple[click.Parameter, ...] = (
    QUIET,
    GroupedOption(
        ["--save-recipe"],
        type=NEW_FILE,
        metavar="FILE",
        help="Also write this command as a recipe, see `converter run`.",
        group=EXECUTION,
    ),
)


def write(function: Callable[..., WriteResult], values: dict[str, Any]) -> None:
    """Run a command with the options of the command line, push the result on request, print it."""
    json, quiet, recipe = (values.pop(name) for name in ("json", "quiet", "save_recipe"))
    push = _pop_push_options(values)
    if recipe is not None:
        _save_recipe(Path(recipe), values, push)
    with progress_bar(quiet) as progress:
        result = function(**values, progress=progress)
    pushed = verify_and_push(result, push, values["mapping"])
    print_outcome(result, json=json, quiet=quiet, pushed=pushed)


def _pop_push_options(values: dict[str, Any]) -> dict[str, Any]:
    """Remove the options of `PUSH` from `values`; return them, with `push` as ``repo_id``."""
    repo_id = values.pop("push", None)
    options = {each.name: values.pop(each.name, None) for each in _PUSH_OPTIONS}
    unused = [each.flag for each in _PUSH_OPTIONS if options[each.name]]
    if unused and not repo_id:
        raise click.UsageError(f"{unused[0]} requires --push.")
    if not repo_id:
        return {}
    from converter.storage.references import parse_url

    if parse_url(values["output"]):
        raise click.UsageError("--push sends a directory: OUTPUT must be a path, not a URL.")
    return {"repo_id": repo_id, **options}


def _save_recipe(path: Path, values: dict[str, Any], push: dict[str, Any]) -> None:
    """Write the recipe of the running command, with what was given on the command line."""
    from converter.recipes.parser import save_recipe

    context = click.get_current_context()
    given = {
        name: value
        for name, value in values.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    save_recipe(path, str(context.info_name), given, push)


def verify_and_push(
    result: WriteResult, push: dict[str, Any], mapping: Sequence[str]
) -> PushResult | None:
    """Verify what was written and push it; see `converter.verified_push`."""
    if not push or not result.written:
        return None
    from converter.verified_push import verify_for_push

    verified = verify_for_push(result, mapping=mapping, **push)
    try:
        return verified.send()
    except KeyboardInterrupt:
        print_message(verified.next_step)
        raise


def print_outcome(
    result: WriteResult, *, json: bool, quiet: bool, pushed: PushResult | None = None
) -> None:
    """Print what was written, planned or pushed; warnings always, the summary unless `quiet`."""
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
        print_push_result(pushed)


def print_push_result(pushed: PushResult, *, json: bool = False) -> None:
    """Print what was pushed."""
    for name in pushed.kept:
        warn(f"{name}: the repository has its own, which was kept")
    if json:
        emit_json(pushed.to_dict())
    elif not pushed.sent:
        print_result(f"{pushed.url}: up to date; nothing was sent")
    else:
        what = "1 file" if len(pushed.sent) == 1 else f"{len(pushed.sent)} files"
        same = f", {len(pushed.unchanged)} unchanged" if pushed.unchanged else ""
        target = f"pull request {pushed.url}" if pushed.pull_request else pushed.url
        print_result(f"{target}: {what} sent{same}")

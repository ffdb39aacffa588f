"""What the commands that write a checkpoint have in common: recipe, push and result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converter.cli.console import (
    emit_json,
    is_quiet,
    print_message,
    print_report,
    print_result,
    progress_bar,
    warn,
)
from converter.cli.options import NEW_FILE, GroupedOption, click_option
from converter.option_declaration import EXECUTION, HUB, options_of
from converter.options import PushOptions
from converter.report.terminal_text import count

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
    GroupedOption(
        ["--save-recipe"],
        type=NEW_FILE,
        metavar="FILE",
        help="Also write this command as a recipe, see `converter run`.",
        group=EXECUTION,
    ),
)


def write(function: Callable[..., WriteResult], values: dict[str, Any]) -> None:
    """Run `compose`, `convert` or `split`, push the result if asked to, and print it.

    Warnings are always printed, and so is a plan.
    """
    json, recipe = (values.pop(name) for name in ("json", "save_recipe"))
    push = _pop_push_options(values)
    if recipe is not None:
        _save_recipe(Path(recipe), values, push)
    finished = None
    with progress_bar() as progress:
        if push and not values["overwrite"] and not values["dry_run"]:
            from converter.recipes.job import up_to_date_result

            name = str(click.get_current_context().info_name)
            finished = up_to_date_result(name, values, progress or (lambda *_: None))
        result = finished or function(**values, progress=progress)
    if finished:
        print_message(f"{result.output}: is up to date, and not written again")
    pushed = verify_and_push(result, push if finished or result.written else {}, values["mapping"])
    for warning in result.warnings:
        warn(warning)
    if json:
        emit_json({**result.to_dict(), **({"pushed": pushed.to_dict()} if pushed else {})})
    elif not (finished or result.written):
        from converter.report.write_result import describe_plan

        print_result(describe_plan(result), styled=True)
    elif not (finished or is_quiet()):
        from converter.report.write_result import describe_result

        print_report(describe_result(result), styled=True)
    if pushed and not json:
        print_push_result(pushed)


def _pop_push_options(values: dict[str, Any]) -> dict[str, Any]:
    """Take the options of `PUSH` out of `values`; `push` is called ``repo_id`` then."""
    repo_id = values.pop("push", None)
    options = {each.name: values.pop(each.name, None) for each in _PUSH_OPTIONS}
    unused = [each.flag for each in _PUSH_OPTIONS if options[each.name]]
    if unused and not repo_id:
        raise click.UsageError(f"{unused[0]} requires --push.")
    if not repo_id:
        return {}
    from converter.storage.hub_upload import check_push
    from converter.storage.references import parse_url

    if parse_url(values["output"]):
        raise click.UsageError("--push sends a directory: OUTPUT must be a path, not a URL.")
    check_push(repo_id, options["revision"], options["create_pr"])
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
    """Verify what was written and push it; raise VerificationError if it is not correct."""
    if not push:
        return None
    from converter.verified_push import verify_for_push

    verified = verify_for_push(result, mapping=mapping, **push)
    try:
        return verified.send()
    except KeyboardInterrupt:
        print_message(verified.next_step)
        raise


def print_push_result(pushed: PushResult, *, json: bool = False) -> None:
    """Print what was pushed."""
    for text in pushed.warnings:
        warn(text)
    if json:
        emit_json(pushed.to_dict())
    elif not pushed.sent:
        print_report(f"{pushed.url}: up to date; nothing was sent")
    else:
        same = f", {len(pushed.unchanged)} unchanged" if pushed.unchanged else ""
        target = f"pull request {pushed.url}" if pushed.pull_request else pushed.url
        print_report(f"{target}: {count(len(pushed.sent), 'file')} sent{same}")

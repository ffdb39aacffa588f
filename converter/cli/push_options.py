"""``--push`` of the commands that write a checkpoint: prove it, then send it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converter.cli.console import print_message
from converter.cli.options import section

if TYPE_CHECKING:
    from converter.execution.write_checkpoint import WriteResult
    from converter.storage.hub_upload import PushResult

PUSH = section(
    "The Hub",
    (
        click.option(
            "--push",
            metavar="REPO_ID",
            help="Verify the result and upload it, see `converter push`.",
        ),
        click.option("--private", is_flag=True, help="Make a new repository private."),
        click.option("--revision", metavar="BRANCH", help="Commit to this branch."),
        click.option("--create-pr", is_flag=True, help="Push as a pull request."),
        click.option("--commit-message", metavar="TEXT", help="Message of the commit."),
        click.option("--token", metavar="TOKEN", help="Token of the Hub, other than yours."),
        click.option(
            "--only", metavar="PATTERN", multiple=True, help="Push these files alone; may repeat."
        ),
    ),
)
_NAMES = ("push", "private", "revision", "create_pr", "commit_message", "token", "only")


def pop_push_options(wanted: dict[str, Any], output: str) -> dict[str, Any]:
    """Take the options of `PUSH` out of `wanted`.

    Raises:
        click.UsageError: if there are some without ``--push``, which would do nothing, or if
            `output` is no directory that can be pushed.

    """
    how = {name: wanted.pop(name) for name in _NAMES}
    idle = [name for name, value in how.items() if value and name != "push"]
    if idle and not how["push"]:
        raise click.UsageError(f"--{idle[0].replace('_', '-')} is of use only with --push.")
    if how["push"]:
        from converter.storage.url import url_of

        if url_of(output):
            raise click.UsageError("--push sends a directory: let OUTPUT be a path.")
    return how


def verify_and_push(
    result: WriteResult, how: dict[str, Any], mapping: Sequence[Path] = ()
) -> PushResult | None:
    """Prove what was written and push it, if that was asked for; see `converter.verified_push`.

    Raises:
        VerificationError: if the result is not what it should be; nothing is sent then.
        OutputError: if the Hub refuses.

    """
    how = dict(how)
    repo_id = how.pop("push")
    if not repo_id or not result.written:
        return None
    from converter.verified_push import verify_for_push

    delivery = verify_for_push(result, repo_id, mapping, **how)
    try:
        return delivery.send()
    except KeyboardInterrupt:
        print_message(delivery.next_step)
        raise

"""``converter push``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converter.cli import options
from converter.cli.console import emit_json, print_result, warn

if TYPE_CHECKING:
    from converter.storage.hub_upload import PushResult

_EPILOG = """\b
Examples:
  converter push bert2gpt2 me/bert2gpt2 --private
  converter push bert2gpt2 me/bert2gpt2 --only '*.safetensors' --create-pr

Log in first with `hf auth login`, or set HF_TOKEN."""


@click.command("push", epilog=_EPILOG)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("repo_id")
@options.add_options(
    (
        click.option("--private", is_flag=True, help="Make a new repository private."),
        click.option("--revision", metavar="BRANCH", help="Commit to this branch."),
        click.option(
            "--create-pr",
            is_flag=True,
            help="Propose the files by a pull request, or continue one of the same message.",
        ),
        click.option("--commit-message", metavar="TEXT", help="Message of the commit."),
        click.option("--token", metavar="TOKEN", help="Token of the Hub, other than yours."),
        click.option(
            "--only", metavar="PATTERN", multiple=True, help="Send these files alone; may repeat."
        ),
        options.JSON,
    )
)
def command(directory: Path, repo_id: str, json: bool, **wanted: Any) -> None:
    """Upload a checkpoint to the Hub.

    DIR goes to the repository REPO_ID in one commit; the repository is made if there is none.
    Files that it holds already are not sent again, and a model card that you wrote there stays.
    """
    from converter.storage.hub_upload import push

    print_push_result(push(directory, repo_id, **wanted), json=json)


def print_push_result(pushed: PushResult, *, json: bool = False) -> None:
    """Tell what was pushed."""
    for name in pushed.kept:
        warn(f"{name}: the repository has one that somebody wrote, which stays")
    if json:
        emit_json(pushed.to_dict())
    elif not pushed.sent:
        print_result(f"{pushed.url}: holds all of it already; nothing was sent")
    else:
        what = "1 file" if len(pushed.sent) == 1 else f"{len(pushed.sent)} files"
        same = f", {len(pushed.unchanged)} unchanged" if pushed.unchanged else ""
        place = f"pull request {pushed.url}" if pushed.pull_request else pushed.url
        print_result(f"{place}: {what} sent{same}")

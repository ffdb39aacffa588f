"""``--push`` of the commands that write a checkpoint: prove it, then send it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converter.cli.console import say
from converter.cli.sections import section

if TYPE_CHECKING:
    from converter.composition.production import Result
    from converter.hub.push import Pushed

RESCUE = "Adding `safetensors` variant of this model"
"""The title by which the Hub's own converters propose the same, so that people know it."""

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


def take_push(wanted: dict[str, Any], output: str) -> dict[str, Any]:
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
        from converter.remote.url import url_of

        if url_of(output):
            raise click.UsageError("--push sends a directory: let OUTPUT be a path.")
    return how


def publish(result: Result, how: dict[str, Any]) -> Pushed | None:
    """Prove what was written and push it, if that was asked for.

    A pull request to the very repository that a model was converted from adds weights, and a
    configuration where there is none, and changes nothing else.

    Raises:
        VerificationError: if the result is not what it should be; nothing is sent then.
        OutputError: if the Hub refuses.
    """
    how = dict(how)
    repo_id = how.pop("push")
    if not repo_id or not result.written:
        return None
    from converter.errors import OutputError, VerificationError
    from converter.hub.push import push
    from converter.locating import CONFIG
    from converter.proof.verify import verify
    from converter.remote.url import path_of
    from converter.report.verification import describe_verification

    hubs = [source.checkpoint.hub for source in result.sources]
    converted = result.plan.command == "convert"
    kept = not any(
        "cast" in str(tensor["origin"]) for tensor in result.provenance["tensors"].values()
    )
    against = [
        f"{hub.id.repo_id}@{hub.commit}" for hub in hubs if hub is not None and converted and kept
    ]
    output = path_of(str(result.output))
    found = verify(output, against=against)
    if not found.verified:
        raise VerificationError(
            f"{result.output}: is not what it should be; nothing was sent", found.problems
        )
    found.directory = output.name  # no paths of this machine for others to read
    only = list(how.pop("only"))
    own = converted and any(hub and hub.id.repo_id == repo_id for hub in hubs)
    if own and how["create_pr"] and not only:
        how["commit_message"] = how["commit_message"] or RESCUE
        only = [file.path for file in result.plan.files]
        there = {path.name for s in result.sources for path in s.checkpoint.directory.iterdir()}
        only += [
            name  # an original release has a configuration of another name, or none of the kind
            for name in result.plan.documents
            if name.endswith(".index.json") or (name == CONFIG and name not in there)
        ]
    report = click.unstyle(describe_verification(found))
    proof = f"Made and proven by encdec-converter.\n\n```text\n{report}```\n"
    try:
        return push(output, repo_id, description=proof, only=only, **how)
    except OutputError as error:
        steps = [error.remedy] if error.remedy else []
        steps.append(f"{_stays(output)} go on with:\n  {_command(output, repo_id, only, how)}")
        raise OutputError(error.message, error.problems, "\n".join(steps)) from error
    except KeyboardInterrupt:
        say(f"{_stays(output)} go on with:\n  {_command(output, repo_id, only, how)}")
        raise


def _stays(output: Path) -> str:
    return f"{output} is finished and proven, and stays as it is;"


def _command(output: Path, repo_id: str, only: Sequence[str], how: Mapping[str, Any]) -> str:
    """The command that pushes what is finished; never the token."""
    words = ["converter", "push", str(output), repo_id]
    for name, value in {**how, "only": only}.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value and name != "token":
            values = [value] if isinstance(value, str) else value
            words += [word for each in values for word in (flag, each)]
    return shlex.join(words)

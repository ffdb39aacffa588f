"""A result proven and sent to the Hub: ``--push`` of commands, and ``push`` of a recipe's job."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from converter.commands.verify import verify
from converter.errors import OutputError, VerificationError
from converter.execution.write_checkpoint import WriteResult
from converter.file_names import CONFIG, INDEX_SUFFIX
from converter.report.verification import describe_verification
from converter.storage.hub_upload import PushResult, push
from converter.storage.references import local_path

RESCUE = "Adding `safetensors` variant of this model"
"""The title by which the Hub's own converters propose the same, so that people know it."""


@dataclass(frozen=True)
class VerifiedPush:
    """What is proven and about to be sent."""

    output: Path
    repo_id: str
    options: Mapping[str, Any]
    """Of `converter.storage.hub_upload.push`."""

    def send(self) -> PushResult:
        """Push it.

        Raises:
            OutputError: if the Hub refuses; it says how to go on.

        """
        try:
            return push(self.output, self.repo_id, **self.options)
        except OutputError as error:
            steps = [error.remedy] if error.remedy else []
            remedy = "\n".join([*steps, self.next_step])
            raise OutputError(error.message, error.problems, remedy) from error

    @property
    def next_step(self) -> str:
        """How to push what is finished; never with the token."""
        words = ["converter", "push", str(self.output), self.repo_id]
        for name, value in self.options.items():
            flag = "--" + name.replace("_", "-")
            if value is True:
                words.append(flag)
            elif value and name not in ("token", "description"):
                values = [value] if isinstance(value, str) else value
                words += [word for each in values for word in (flag, each)]
        return (
            f"{self.output} is finished and proven, and stays as it is; go on with:\n"
            f"  {shlex.join(words)}"
        )


def verify_for_push(
    result: WriteResult, repo_id: str, mapping: Sequence[str | Path] = (), **options: Any
) -> VerifiedPush:
    """Prove what was made, and decide what of it goes to a repository.

    A pull request to the very repository that a model was converted from adds weights, and a
    configuration where there is none, and changes nothing else.

    Args:
        result: of a command that made a checkpoint, or of a dry run if that is there already.
        repo_id: where it is to go.
        mapping: the user's own mapping tables that it was made with.
        options: of `converter.storage.hub_upload.push`.

    Raises:
        VerificationError: if it is not what it should be.

    """
    sources = [source.checkpoint.source for source in result.sources]
    converted = result.plan.command == "convert"
    origins = [str(tensor["origin"]) for tensor in result.planned_manifest["tensors"].values()]
    against = [
        f"{source.repo_id}@{source.describe()['revision']}"
        for source in sources
        if source.repo_id and converted and not any("cast" in origin for origin in origins)
    ]
    output = local_path(str(result.output))
    found = verify(output, against=against, mapping=mapping)
    if not found.verified:
        raise VerificationError(
            f"{result.output}: is not what it should be; nothing was sent", found.problems
        )
    found = replace(found, directory=output.name)  # publish no local paths
    only = list(options.get("only") or ())
    own = converted and any(source.repo_id == repo_id for source in sources)
    if own and options.get("create_pr") and not only:
        options["commit_message"] = options.get("commit_message") or RESCUE
        only = _new_files(result)
    report = describe_verification(found, StringIO())
    proof = f"Made and proven by encdec-converter.\n\n```text\n{report}```\n"
    options["description"] = options.get("description") or proof
    return VerifiedPush(output, repo_id, {**options, "only": only})


def _new_files(result: WriteResult) -> list[str]:
    """The weights, their indexes, and the configuration if the sources have none of that name.

    An original release has one of another name, or none of the kind.
    """
    there = {path.name for s in result.sources for path in s.checkpoint.directory.iterdir()}
    documents = [
        name
        for name in result.plan.documents
        if name.endswith(INDEX_SUFFIX) or (name == CONFIG and name not in there)
    ]
    return [*(file.path for file in result.plan.files), *documents]

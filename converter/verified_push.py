"""Verifying a result and pushing it to the Hub: ``--push`` of commands, ``push`` of recipe jobs.

It is above `converter.report`, whose text of the verification is the description of the commit.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from converter.commands.push import push
from converter.commands.verify import verify
from converter.errors import OutputError, VerificationError
from converter.execution.write_checkpoint import WriteResult
from converter.file_names import CONFIG, INDEX_SUFFIX
from converter.models.model import InputModel
from converter.report.verification import describe_verification
from converter.storage.hub_upload import PushResult
from converter.storage.references import local_path

_RESCUE_TITLE = "Adding `safetensors` variant of this model"
"""The title that the Hub's own converters use, which maintainers know."""


@dataclass(frozen=True)
class VerifiedPush:
    """A verified checkpoint, and how to push it."""

    output: Path
    repo_id: str
    options: Mapping[str, Any]
    """Options of `converter.push`."""

    def send(self) -> PushResult:
        """Push it; if the Hub refuses, the error has the command to continue with."""
        try:
            return push(self.output, self.repo_id, **self.options)
        except OutputError as error:
            remedy = "\n".join(filter(None, (error.remedy, self.next_step)))
            raise OutputError(error.message, error.problems, remedy) from error

    @property
    def next_step(self) -> str:
        """The command that pushes the finished checkpoint, without the token."""
        words = ["converter", "push", str(self.output), self.repo_id]
        for name, value in self.options.items():
            flag = "--" + name.replace("_", "-")
            if value is True:
                words.append(flag)
            elif value and name not in ("token", "description"):
                values = [value] if isinstance(value, str) else value
                words += [word for each in values for word in (flag, each)]
        return (
            f"{self.output} is complete and verified, and stays unchanged; continue with:\n"
            f"  {shlex.join(words)}"
        )


def verify_for_push(
    result: WriteResult, repo_id: str, mapping: Sequence[str | Path] = (), **options: Any
) -> VerifiedPush:
    """Verify a result, and select the files to push.

    A pull request to the repository that the model was converted from adds weights, and a
    configuration if it has none or one of other fields, and changes nothing else. The result may
    be that of a dry run if the checkpoint exists already; `options` are those of `converter.push`.
    Raise `VerificationError` if the result is not correct.
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
    verification = verify(output, against=against, mapping=mapping)
    if not verification.verified:
        raise VerificationError(
            f"{result.output}: is not correct; nothing was sent", verification.problems
        )
    verification = replace(verification, directory=output.name)  # publish no local paths
    only = list(options.get("only") or ())
    same_repository = converted and any(source.repo_id == repo_id for source in sources)
    if same_repository and options.get("create_pr") and not only:
        options["commit_message"] = options.get("commit_message") or _RESCUE_TITLE
        only = _new_files(result)
    if not options.get("description"):
        report = describe_verification(verification, StringIO())
        text = f"Made and verified by encdec-converter.\n\n```text\n{report}```\n"
        options["description"] = text
    return VerifiedPush(output, repo_id, {**options, "only": only})


def _new_files(result: WriteResult) -> list[str]:
    """Return the weights, their indexes, and the config if the sources have none that fits.

    The config of an original release has another name, or is missing.
    """
    present = {path.name for s in result.sources for path in s.checkpoint.directory.iterdir()}
    fits = CONFIG in present and not any(map(_has_other_fields, result.sources))
    documents = [
        name
        for name in result.plan.documents
        if name.endswith(INDEX_SUFFIX) or (name == CONFIG and not fits)
    ]
    return [*(file.path for file in result.plan.files), *documents]


def _has_other_fields(source: InputModel) -> bool:
    """Return whether a field that decides about tensors is not as the source's config has it."""
    stored = source.checkpoint.config
    pairs = [(c, stored.get(name) if name else stored) for name, c in source.configs.items()]
    return any(
        isinstance(old, Mapping) and config.raw.get(field) != old.get(field)
        for config, old in pairs
        for field in config.architecture.config
    )

"""Uploading a checkpoint directory to a Hub repository, or to a pull request there."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.display import Displayed
from converter.errors import OutputError, UsageError
from converter.file_names import CHECKPOINT_MARKERS, MODEL_CARD
from converter.options import PushOptions
from converter.safe_json import file_to_copy, read_small_file
from converter.storage.base import MAX_METADATA_BYTES, temporary_output
from converter.storage.hub_card import for_repository, is_generated, validate_card
from converter.storage.hub_client import retry, translate_hub_errors
from converter.storage.references import HubRepo, Url, parse_repo_id

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

_log = logging.getLogger(__name__)

_COMMIT_MESSAGE = "Upload checkpoint with converter"

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".h5", ".msgpack")
"""Of the files that may be links to anywhere."""


@dataclass(frozen=True, repr=False)
class PushResult(Displayed):
    """The result of `push`."""

    repo_id: str
    url: str
    """The page of the pull request, or of the repository."""
    revision: str
    """The branch or ``refs/pr/N`` that holds the files."""
    commit: str | None
    """The new commit, ``None`` if nothing changed."""
    created: bool
    """If true, the repository was created."""
    pull_request: int | None
    """Number of the pull request."""
    continued: bool
    """If true, the pull request was open before."""
    sent: tuple[str, ...]
    unchanged: tuple[str, ...]
    """Files that the repository already has."""
    kept: tuple[str, ...]
    """Files of the repository that were not replaced, since somebody else wrote them."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know: the files of the repository that were kept."""
        return tuple(f"{name}: the repository has its own, which was kept" for name in self.kept)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as ``--json`` prints it."""
        files = {name: list(getattr(self, name)) for name in ("sent", "unchanged", "kept")}
        return {"command": "push", **vars(self), **files}


def upload(options: PushOptions) -> PushResult:
    """Upload a checkpoint directory in one commit; see `converter.push`."""
    repo_id, revision, create_pr = options.repo_id, options.revision, options.create_pr
    check_push(repo_id, revision, create_pr)
    files = _select_files(Path(options.directory), options.only)
    from huggingface_hub import HfApi

    api = HfApi(token=options.token, library_name="converter")
    with translate_hub_errors(
        OutputError, f"{repo_id}: cannot be pushed to", repo_id, writing=True
    ):
        account = retry(api.whoami)
        user = str(account.get("name") if isinstance(account, dict) else "")
        contents: dict[str, Path | bytes] = dict(files)
        if MODEL_CARD in files:
            retry(lambda: validate_card(files[MODEL_CARD], api))
            contents[MODEL_CARD] = for_repository(read_small_file(files[MODEL_CARD]), repo_id)
        created = _prepare_repository(api, repo_id, options.private, revision, create_pr)
        title = options.commit_message or _COMMIT_MESSAGE
        number = _open_pull_request(api, repo_id, title, user) if create_pr else None
        continued = number is not None
        target = f"refs/pr/{number}" if continued else revision or "main"
        sent, unchanged, kept = _compare(api, repo_id, target, contents)
        _log.info("%s: sending %s to %s", repo_id, ", ".join(sent) or "nothing", target)
        url = f"{api.endpoint}/{repo_id}" + (f"/discussions/{number}" if continued else "")
        commit = None
        if sent:
            info = retry(
                lambda: api.create_commit(
                    repo_id,
                    _operations({name: contents[name] for name in sent}),
                    commit_message=title,
                    commit_description=options.description,
                    revision=target if continued or not create_pr else None,
                    create_pr=create_pr and not continued,
                )
            )
            commit = str(info.oid)
            if create_pr and not continued:
                number = int(str(info.pr_num))
                url, target = str(info.pr_url), str(info.pr_revision)
        return PushResult(
            repo_id, url, target, commit, created, number, continued, sent, unchanged, kept
        )


def check_push(repo_id: str, revision: str | None, create_pr: bool) -> None:
    """Raise `UsageError` if this is not a repository id, or the options contradict each other."""
    repository = parse_repo_id(f"hf://{repo_id}")
    if repository is None or repository.repo_id != repo_id:
        raise UsageError(f"{repo_id!r} is not a repository id", remedy="Write it as org/name.")
    if create_pr and revision:
        raise UsageError(
            "create_pr: a pull request proposes changes to the main branch, not to a revision",
            remedy="Give one of the two.",
        )


def _select_files(directory: Path, only: Sequence[str]) -> dict[str, Path]:
    """Return the files to upload by their names in the repository, without hidden files."""
    if not any((directory / name).is_file() for name in CHECKPOINT_MARKERS):
        raise OutputError(
            f"{directory}: not a checkpoint directory",
            remedy=f"Expected one that holds {' or '.join(CHECKPOINT_MARKERS)}.",
        )
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    files = {path.relative_to(directory).as_posix(): path for path in paths}
    selected = {
        name: path
        for name, path in files.items()
        if not name.startswith(".")
        and "/." not in name
        and (not only or any(fnmatchcase(name, pattern) for pattern in only))
    }
    if not selected:
        raise OutputError(f"{directory}: no file matches {', '.join(only)}")
    for name, path in selected.items():
        if path.suffix not in _WEIGHT_SUFFIXES:
            file_to_copy(directory, name, OutputError)
    return selected


def _prepare_repository(
    api: HfApi, repo_id: str, private: bool, revision: str | None, create_pr: bool
) -> bool:
    """Create the repository and the branch if missing; return whether the former was created."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    created = False
    try:
        info = retry(lambda: api.model_info(repo_id))
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        if create_pr:
            raise OutputError(
                f"{repo_id}: no repository to open a pull request in, or it is private",
                remedy="Push without --create-pr to create one.",
            ) from None
        retry(lambda: api.create_repo(repo_id, private=private or None, exist_ok=True))
        created = True
    else:
        if private and not info.private:
            raise OutputError(
                f"{repo_id}: exists and is public; nothing was sent",
                remedy="Make it private in its settings, or push without --private.",
            )
    if revision and revision != "main" and not revision.startswith("refs/"):
        retry(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
    return created


def _open_pull_request(api: HfApi, repo_id: str, title: str, user: str) -> int | None:
    """Return the number of the open pull request of `user` with this title."""
    pulls = retry(lambda: list(api.get_repo_discussions(repo_id, discussion_type="pull_request")))
    numbers = [
        pull.num
        for pull in pulls
        if pull.is_pull_request
        and pull.status in ("open", "draft")
        and pull.title == title
        and pull.author == user
    ]
    return max(numbers, default=None)


def _operations(contents: Mapping[str, Path | bytes]) -> list[CommitOperationAdd]:
    """Return new operations: the client marks those that it has sent."""
    from huggingface_hub import CommitOperationAdd

    return [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in contents.items()
    ]


def _compare(
    api: HfApi, repo_id: str, revision: str, contents: Mapping[str, Path | bytes]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the names to send, those unchanged at a revision, and cards to keep there.

    The client leaves out unchanged files itself, but does not report which, commits nothing
    without saying so, and cannot know that a card was edited.
    """
    tree = retry(lambda: list(api.list_repo_tree(repo_id, recursive=True, revision=revision)))
    remote = {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}
    unchanged = [op.path_in_repo for op in _operations(contents) if _is_unchanged(remote, op)]
    sent = [name for name in contents if name not in unchanged]
    kept = []
    card = contents.get(MODEL_CARD)
    replaced = MODEL_CARD in sent and MODEL_CARD in remote
    if replaced and isinstance(card, bytes) and is_generated(card):
        path = retry(lambda: api.hf_hub_download(repo_id, MODEL_CARD, revision=revision))
        if not is_generated(Path(path).read_bytes()):
            sent.remove(MODEL_CARD)
            kept.append(MODEL_CARD)
    return tuple(sent), tuple(unchanged), tuple(kept)


def _is_unchanged(remote: Mapping[str, Any], operation: CommitOperationAdd) -> bool:
    """Return whether the repository has a file with the same bytes, by size and hash."""
    entry = remote.get(operation.path_in_repo)
    info = operation.upload_info
    if entry is None or entry.size != info.size:
        return False
    if entry.lfs:
        return bool(entry.lfs.sha256 == info.sha256.hex())
    git_hash = hashlib.sha1(b"blob %d\0" % info.size)
    with operation.as_file() as file:
        git_hash.update(file.read())
    return bool(entry.blob_id == git_hash.hexdigest())


@dataclass(frozen=True)
class HubTarget:
    """A repository of the Hub, which gets all files in one commit; see `OutputTarget`."""

    repository: HubRepo

    @property
    def location(self) -> Url:
        """The URL."""
        return Url(f"hf://{self.repository}")

    @cached_property
    def _sizes(self) -> Mapping[str, int]:
        from huggingface_hub import HfApi, errors

        action = f"{self.location}: cannot be listed"
        repo_id, revision = self.repository.repo_id, self.repository.revision
        with translate_hub_errors(OutputError, action, repo_id, writing=True):
            try:
                tree = HfApi().list_repo_tree(repo_id, recursive=True, revision=revision)
                return {entry.path: entry.size for entry in tree if hasattr(entry, "size")}
            except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
                return {}

    def files(self) -> Mapping[str, int]:
        """Return the size in bytes of every file, by name."""
        return self._sizes

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file."""
        if self._sizes.get(name, MAX_METADATA_BYTES + 1) > MAX_METADATA_BYTES:
            return None
        from huggingface_hub import hf_hub_download

        action = f"{self.location}/{name}: cannot be read"
        repo_id, revision = self.repository.repo_id, self.repository.revision
        with translate_hub_errors(OutputError, action, repo_id):
            return Path(hf_hub_download(repo_id, name, revision=revision)).read_bytes()

    def modified(self, name: str) -> float | None:
        """Return ``None``: unknown; but unchanged files are not sent again."""
        return None

    def may_have_changed(self, names: Iterable[str]) -> list[str]:
        """Return all of them."""
        return list(names)

    @contextmanager
    def open_for_writing(self, overwrite: bool, resume: str | None, sync: bool) -> Iterator[Path]:
        """Yield a temporary directory that is pushed at the end."""
        with temporary_output(self.repository.repo_id.partition("/")[2], resume, sync) as directory:
            if not overwrite and any(marker in self._sizes for marker in CHECKPOINT_MARKERS):
                raise OutputError(
                    f"{self.location} holds a checkpoint",
                    remedy="Add --overwrite to commit a new one, or choose another location.",
                )
            yield directory
            repo_id, revision = self.repository.repo_id, self.repository.revision
            upload(PushOptions(directory, repo_id, revision=revision))

    def check_not_a_source(self, files: Iterable[Path], references: Iterable[str]) -> None:
        """Accept every source: a commit replaces nothing that is being read."""

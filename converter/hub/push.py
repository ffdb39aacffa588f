"""A checkpoint directory to a repository of the Hub, or to a pull request there."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import OutputError, UsageError
from converter.hub.card import CARD, for_repository, is_ours
from converter.hub.failure import patiently, telling
from converter.hub.reference import hub_id
from converter.hub.validation import check_card

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_log = logging.getLogger(__name__)

MESSAGE = "Upload checkpoint with converter"
_MARKS = ("config.json", "converter-manifest.json")


@dataclass(frozen=True)
class Pushed:
    """What `push` did."""

    repo_id: str
    url: str
    """Where to look at it: the pull request, or the repository."""
    revision: str
    """The branch or ``refs/pr/N`` that holds the files."""
    commit: str | None
    """The commit that was made, ``None`` if there was nothing to change."""
    created: bool
    """Whether the repository was made."""
    pull_request: int | None
    """Number of the pull request."""
    continued: bool
    """Whether it had been open before."""
    sent: tuple[str, ...]
    unchanged: tuple[str, ...]
    """Files that the repository holds already."""
    kept: tuple[str, ...]
    """Files of the repository that were left as they are, as somebody else wrote them."""

    def to_dict(self) -> dict[str, Any]:
        """The report as ``--json`` prints it."""
        listed = {name: list(getattr(self, name)) for name in ("sent", "unchanged", "kept")}
        return {"command": "push", **vars(self), **listed}


def push(
    directory: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    description: str | None = None,
    token: str | None = None,
    only: Sequence[str] = (),
) -> Pushed:
    """Upload a checkpoint directory in one commit; what is there already is not sent again.

    A repository that there is not is made. A card of the repository that somebody wrote stays.

    Args:
        directory: the finished checkpoint.
        repo_id: ``org/name``.
        private: whether a repository that is made is private. One that is public is refused then.
        revision: the branch to commit to, made from the main branch if there is none.
        create_pr: whether to propose the files by a pull request. An open one of the same user and
            title is continued.
        commit_message: of the commit; the title of the pull request.
        description: text of the commit and of a new pull request.
        token: of the user; that of ``HF_TOKEN`` or of the login unless given.
        only: patterns such as ``*.safetensors``; files that match none are left out.

    Raises:
        UsageError: if `repo_id` is no id, or options contradict each other.
        OutputError: if the directory is no checkpoint, or the Hub refuses or cannot be reached;
            the repository is as it was then.
    """
    home = Path(directory)
    _check_call(repo_id, revision, create_pr)
    files = _files(home, only)
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="converter")
    with telling(OutputError, f"{repo_id}: cannot be pushed to", repo_id, writing=True):
        user = str(patiently(api.whoami)["name"])
        if CARD in files:
            patiently(lambda: check_card(files[CARD], api))
        created = _prepare(api, repo_id, private, revision, create_pr)
        message = commit_message or MESSAGE
        number = _open_pull(api, repo_id, message, user) if create_pr else None
        target = f"refs/pr/{number}" if number else revision or "main"
        contents: dict[str, Path | bytes] = dict(files)
        if CARD in files:
            contents[CARD] = for_repository(files[CARD].read_bytes(), repo_id)
        held = _held(api, repo_id, target)
        unchanged = [name for name, content in contents.items() if _same(held.get(name), content)]
        sent = [name for name in contents if name not in unchanged]
        kept = []
        if CARD in sent and CARD in held and _foreign_card(api, repo_id, target, contents[CARD]):
            sent.remove(CARD)
            kept.append(CARD)
        commit = None
        _log.info("%s: sending %s to %s", repo_id, ", ".join(sent) or "nothing", target)
        if sent:
            made = _commit(
                api,
                repo_id,
                {name: contents[name] for name in sent},
                revision=target,
                create_pr=create_pr and number is None,
                message=message,
                description=description,
            )
            commit = str(made.oid)
            if create_pr and number is None:
                return Pushed(
                    repo_id,
                    str(made.pr_url),
                    str(made.pr_revision),
                    commit,
                    created,
                    int(made.pr_num),
                    False,
                    tuple(sent),
                    tuple(unchanged),
                    tuple(kept),
                )
        url = f"{api.endpoint}/{repo_id}" + (f"/discussions/{number}" if number else "")
        return Pushed(
            repo_id,
            url,
            target,
            commit,
            created,
            number,
            number is not None,
            tuple(sent),
            tuple(unchanged),
            tuple(kept),
        )


def _check_call(repo_id: str, revision: str | None, create_pr: bool) -> None:
    found = hub_id(repo_id) if not Path(repo_id).exists() else hub_id(f"{repo_id}@main")
    if found is None or found.repo_id != repo_id:
        raise UsageError(f"{repo_id!r} is no id of a repository", remedy="Write it as org/name.")
    if create_pr and revision:
        raise UsageError(
            "create_pr: a pull request proposes changes of the main branch, not of a revision",
            remedy="Give one of the two.",
        )


def _files(home: Path, only: Sequence[str]) -> dict[str, Path]:
    """Name in the repository → file. Hidden files stay at home."""
    if not any((home / name).is_file() for name in _MARKS):
        raise OutputError(
            f"{home}: is no checkpoint directory",
            remedy=f"Expected one that holds {' or '.join(_MARKS)}.",
        )
    found = {
        path.relative_to(home).as_posix(): path
        for path in sorted(home.rglob("*"))
        if path.is_file()
    }
    found = {
        name: path
        for name, path in found.items()
        if not any(part.startswith(".") for part in name.split("/"))
        and (not only or any(fnmatchcase(name, pattern) for pattern in only))
    }
    if not found:
        raise OutputError(f"{home}: no file matches {', '.join(only)}")
    return found


def _prepare(
    api: HfApi, repo_id: str, private: bool, revision: str | None, create_pr: bool
) -> bool:
    """Make the repository and the branch where they are missing; whether the former was made."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    created = False
    try:
        info = patiently(lambda: api.model_info(repo_id))
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        if create_pr:
            raise OutputError(
                f"{repo_id}: there is no repository to open a pull request in, or it is private",
                remedy="Push without --create-pr to make one.",
            ) from None
        patiently(lambda: api.create_repo(repo_id, private=private or None, exist_ok=True))
        created = True
    else:
        if private and not info.private:
            raise OutputError(
                f"{repo_id}: is there already, and is public; nothing was sent",
                remedy="Make it private in its settings, or push without --private.",
            )
    if revision and revision != "main" and not revision.startswith("refs/"):
        patiently(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
    return created


def _open_pull(api: HfApi, repo_id: str, title: str, user: str) -> int | None:
    """Number of the open pull request of `user` with this title."""
    pulls = patiently(
        lambda: list(api.get_repo_discussions(repo_id, discussion_type="pull_request"))
    )
    numbers = [
        pull.num
        for pull in pulls
        if pull.is_pull_request
        and pull.status in ("open", "draft")
        and pull.title == title
        and pull.author == user
    ]
    return max(numbers, default=None)


def _held(api: HfApi, repo_id: str, revision: str) -> dict[str, Any]:
    """Path → what the Hub says of the file there."""
    tree = patiently(lambda: list(api.list_repo_tree(repo_id, recursive=True, revision=revision)))
    return {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}


def _same(held: Any, content: Path | bytes) -> bool:
    """Whether a file of the repository has these bytes, told by size and hash."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if held is None or held.size != size:
        return False
    if held.lfs:
        return bool(held.lfs.sha256 == _hash(content, hashlib.sha256()))
    return bool(held.blob_id == _hash(content, hashlib.sha1(b"blob %d\0" % size)))


def _hash(content: Path | bytes, digest: Any) -> str:
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return str(digest.hexdigest())


def _foreign_card(api: HfApi, repo_id: str, revision: str, ours: Path | bytes) -> bool:
    """Whether a card made here would replace one that somebody wrote."""
    if not isinstance(ours, bytes) or not is_ours(ours):
        return False
    place = patiently(lambda: api.hf_hub_download(repo_id, CARD, revision=revision))
    return not is_ours(Path(place).read_bytes())


def _commit(
    api: HfApi,
    repo_id: str,
    contents: Mapping[str, Path | bytes],
    *,
    revision: str,
    create_pr: bool,
    message: str,
    description: str | None,
) -> Any:
    from huggingface_hub import CommitOperationAdd

    def send() -> Any:
        operations = [  # the client marks them when they are sent: new ones every time
            CommitOperationAdd(
                path_in_repo=name,
                path_or_fileobj=content if isinstance(content, bytes) else str(content),
            )
            for name, content in contents.items()
        ]
        return api.create_commit(
            repo_id,
            operations,
            commit_message=message,
            commit_description=description,
            revision=None if create_pr else revision,
            create_pr=create_pr,
        )

    return patiently(send)

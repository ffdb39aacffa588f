"""A checkpoint directory to a repository of the Hub, or to a pull request there."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import OutputError, Problem
from converter.file_names import CHECKPOINT_MARKERS, MODEL_CARD

if TYPE_CHECKING:
    from huggingface_hub import HfApi

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from converter.errors import UsageError
from converter.option_declaration import takes
from converter.options import PushOptions
from converter.storage.hub_client import parse_repo_id, retry, translate_hub_errors

if TYPE_CHECKING:
    from huggingface_hub import HfApi


PLACEHOLDER = "path/to/this-model"
"""What stands in the examples of a card until it is pushed to a repository."""

_SEAL = re.compile(rb"\n<!-- converter: ([0-9a-f]{16}) -->\n\Z")
_MAX_BYTES = 4 << 20
"""Larger than any real card."""

_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_LICENCE = re.compile(
    r"^license:[ \t]*(?:\n[ \t]*-[ \t]*|\[)?"  # one, or a list of one
    r"[\"']?([A-Za-z0-9][A-Za-z0-9.+-]{0,63})[\"']?\]?[ \t]*$",
    re.MULTILINE,
)


def with_checksum(text: str) -> bytes:
    """A card of ours, with its seal."""
    data = text.rstrip("\n").encode() + b"\n"
    return data + f"\n<!-- converter: {_digest(data)} -->\n".encode()


def is_generated(card: bytes) -> bool:
    """Whether a card was made here and not changed since."""
    found = _SEAL.search(card)
    return found is not None and found[1].decode() == _digest(card[: found.start()])


def for_repository(card: bytes, repo_id: str) -> bytes:
    """A card of ours with the repository in its examples; any other as it is."""
    found = _SEAL.search(card)
    if not found or not is_generated(card):
        return card
    return with_checksum(card[: found.start()].decode().replace(PLACEHOLDER, repo_id))


def read_card(directory: Path) -> bytes | None:
    """The card in a directory, ``None`` if there is none that can be read."""
    path = directory / MODEL_CARD
    try:
        return path.read_bytes() if path.stat().st_size <= _MAX_BYTES else None
    except OSError:
        return None


def stated_licence(directory: Path) -> str | None:
    """The id of the licence that the card in a directory states, such as ``apache-2.0``."""
    text = (read_card(directory) or b"").decode(errors="replace").replace("\r\n", "\n")
    front = _FRONT.match(text)
    found = _LICENCE.search(front[1]) if front else None
    return found[1].lower() if found else None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def check_card(path: Path, api: HfApi) -> None:
    """Let the Hub look at the front matter of a card.

    Raises:
        OutputError: if it does not accept it, with what it says.

    """
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    session: Any = get_session()
    answer = session.post(
        f"{api.endpoint}/api/validate-yaml",
        json={"content": path.read_text("utf-8", "replace"), "repoType": "model"},
        headers=build_hf_headers(token=api.token),
    )
    if answer.status_code == 400:
        told = answer.json().get("errors") or [{}]
        raise OutputError(
            f"{path}: the Hub does not accept this model card; nothing was sent",
            [Problem(str(each.get("message", "is not valid")), str(path)) for each in told],
            remedy="Mend what stands at its top between two lines of ---; what may stand there: "
            "https://huggingface.co/docs/hub/model-cards",
        )
    hf_raise_for_status(answer)


_log = logging.getLogger(__name__)

MESSAGE = "Upload checkpoint with converter"


@dataclass(frozen=True)
class PushResult:
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


@takes(PushOptions)
def push(options: PushOptions) -> PushResult:
    """Upload a checkpoint directory to the Hub in one commit, without the files it holds already.

    The repository is created if it does not exist. A model card there that was not generated by
    converter is kept.

    Raises:
        UsageError: if `repo_id` is not an id, or options contradict each other.
        OutputError: if the directory is not a checkpoint, or the Hub refuses or cannot be reached;
            the repository is unchanged then.

    """
    repo_id, revision, create_pr = options.repo_id, options.revision, options.create_pr
    home = Path(options.directory)
    _check_call(repo_id, revision, create_pr)
    files = _files(home, options.only)
    from huggingface_hub import HfApi

    api = HfApi(token=options.token, library_name="converter")
    with translate_hub_errors(
        OutputError, f"{repo_id}: cannot be pushed to", repo_id, writing=True
    ):
        user = str(retry(api.whoami)["name"])
        if MODEL_CARD in files:
            retry(lambda: check_card(files[MODEL_CARD], api))
        created = _prepare(api, repo_id, options.private, revision, create_pr)
        message = options.commit_message or MESSAGE
        number = _open_pull(api, repo_id, message, user) if create_pr else None
        target = f"refs/pr/{number}" if number else revision or "main"
        contents: dict[str, Path | bytes] = dict(files)
        if MODEL_CARD in files:
            contents[MODEL_CARD] = for_repository(files[MODEL_CARD].read_bytes(), repo_id)
        held = _held(api, repo_id, target)
        unchanged = [name for name, content in contents.items() if _same(held.get(name), content)]
        sent = [name for name in contents if name not in unchanged]
        kept = []
        if (
            MODEL_CARD in sent
            and MODEL_CARD in held
            and _foreign_card(api, repo_id, target, contents[MODEL_CARD])
        ):
            sent.remove(MODEL_CARD)
            kept.append(MODEL_CARD)
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
                description=options.description,
            )
            commit = str(made.oid)
            if create_pr and number is None:
                return PushResult(
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
        return PushResult(
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
    found = (
        parse_repo_id(repo_id) if not Path(repo_id).exists() else parse_repo_id(f"{repo_id}@main")
    )
    if found is None or found.repo_id != repo_id:
        raise UsageError(f"{repo_id!r} is no id of a repository", remedy="Write it as org/name.")
    if create_pr and revision:
        raise UsageError(
            "create_pr: a pull request proposes changes of the main branch, not of a revision",
            remedy="Give one of the two.",
        )


def _files(home: Path, only: Sequence[str]) -> dict[str, Path]:
    """Name in the repository → file. Hidden files stay at home."""
    if not any((home / name).is_file() for name in CHECKPOINT_MARKERS):
        raise OutputError(
            f"{home}: is no checkpoint directory",
            remedy=f"Expected one that holds {' or '.join(CHECKPOINT_MARKERS)}.",
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
        info = retry(lambda: api.model_info(repo_id))
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        if create_pr:
            raise OutputError(
                f"{repo_id}: there is no repository to open a pull request in, or it is private",
                remedy="Push without --create-pr to make one.",
            ) from None
        retry(lambda: api.create_repo(repo_id, private=private or None, exist_ok=True))
        created = True
    else:
        if private and not info.private:
            raise OutputError(
                f"{repo_id}: is there already, and is public; nothing was sent",
                remedy="Make it private in its settings, or push without --private.",
            )
    if revision and revision != "main" and not revision.startswith("refs/"):
        retry(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
    return created


def _open_pull(api: HfApi, repo_id: str, title: str, user: str) -> int | None:
    """Number of the open pull request of `user` with this title."""
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


def _held(api: HfApi, repo_id: str, revision: str) -> dict[str, Any]:
    """Path → what the Hub says of the file there."""
    tree = retry(lambda: list(api.list_repo_tree(repo_id, recursive=True, revision=revision)))
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
    if not isinstance(ours, bytes) or not is_generated(ours):
        return False
    place = retry(lambda: api.hf_hub_download(repo_id, MODEL_CARD, revision=revision))
    return not is_generated(Path(place).read_bytes())


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

    return retry(send)

"""What the stand-in for the Hugging Face Hub contains, and what is to fail."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.storage.hub.xet_server import Xet

USERS = {
    "hf_test": {"name": "me", "orgs": ["acme"], "role": "write"},
    "hf_ro": {"name": "ro", "orgs": [], "role": "read"},
}
_LFS = ("*.safetensors", "*.bin", "*.h5", "*.msgpack", "*.data-00000-of-00001")


class RefusalError(Exception):
    """An error response, with the codes by which the client distinguishes errors."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        self.status, self.code, self.message = status, code, message


@dataclass
class Repo:
    """One repository; a commit is its files, each the SHA-256 of its bytes."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, Any]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pulls: list[dict[str, Any]] = field(default_factory=list)

    def add(self, files: dict[str, str], parent: str | None, head: dict[str, Any]) -> str:
        stated = json.dumps([files, parent, head, len(self.commits)], sort_keys=True)
        commit = hashlib.sha1(stated.encode()).hexdigest()
        self.commits[commit] = {"files": files, "parent": parent, **head}
        return commit

    def commit_of(self, revision: str) -> str:
        if revision in self.refs:
            return self.refs[revision]
        if revision in self.commits:
            return revision
        raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def files(self, revision: str = "main") -> dict[str, str]:
        return dict(self.commits[self.commit_of(revision)]["files"])

    def open_pull(self, title: str, author: str, commit: str) -> int:
        number = len(self.pulls) + 1
        self.pulls.append({"num": number, "title": title, "author": author, "status": "open"})
        self.refs[f"refs/pr/{number}"] = commit
        return number


class Hub:
    """The state of a server, to be filled and looked at by tests."""

    def __init__(self, xet: bool = False) -> None:
        self.xet = Xet() if xet else None
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.log: list[str] = []
        """Method and path of every request."""
        self.served: list[tuple[str, str, int]] = []
        """Path, token and bytes of every part of a file that was sent."""
        self.failing: dict[str, int] = {}
        """Part of a request → how many times it is still to be answered with status 503."""
        self.dropping: dict[str, int] = {}
        """Part of a request → how many times the connection is still to be cut in the middle."""
        self.odd: dict[str, Callable[[Any], None]] = {}
        """Part of a request → how it is answered instead."""
        self.expired = 0
        """How many times the storage is still to say that an address is no longer valid."""
        self.knows_ranges = True
        self.tells_sizes = True
        self.lock = threading.RLock()

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def publish(self, repo_id: str, files: dict[str, bytes], **how: Any) -> str:
        """Make a repository with one commit, or add one to it; gives the commit."""
        repo = self.repos.setdefault(repo_id, Repo(**how))
        stored = {name: self.put(data) for name, data in files.items()}
        previous = repo.files() if repo.refs else {}
        repo.refs["main"] = repo.add(
            {**previous, **stored}, repo.refs.get("main"), {"title": "files"}
        )
        return repo.refs["main"]

    def read(self, repo_id: str, name: str, revision: str = "main") -> bytes:
        return self.blobs[self.repos[repo_id].files(revision)[name]]

    def requests(self, part: str) -> list[str]:
        return [line for line in self.log if part in line]

    def entry(self, name: str, digest: str) -> dict[str, Any]:
        """Return an entry of a listing."""
        data = self.blobs[digest]
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data)}
        if not is_lfs(name):
            return {**entry, "oid": _git(data)}
        pointer = _pointer(digest, len(data))
        large = {"oid": digest, "size": len(data), "pointerSize": len(pointer)}
        hashes = self.xet.hashes if self.xet else {}
        chunked = {"xetHash": hashes[digest]} if digest in hashes else {}
        return {**entry, "oid": _git(pointer), "lfs": large, **chunked}


def is_lfs(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in _LFS)


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _pointer(digest: str, size: int) -> bytes:
    spec = "version https://git-lfs.github.com/spec/v1"
    return f"{spec}\noid sha256:{digest}\nsize {size}\n".encode()

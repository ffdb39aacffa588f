"""References to checkpoints: local paths, URLs and ids of Hub repositories."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from converter.errors import UsageError
from converter.file_names import name_key, name_problem
from converter.system import IGNORES_CASE, IS_WINDOWS
from converter.text import redact_url, remember_secrets

_ID_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO_ID = re.compile(rf"({_ID_PART}/{_ID_PART})(?:@([^\s@]{{1,200}}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")

_FILE_SUFFIXES = frozenset(
    ".bin .ckpt .h5 .hdf5 .index .json .msgpack .pt .pth .safetensors".split()
)
"""Suffixes of weight files, which hardly any repository name has."""

_URL = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]+::)*[A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
"""At least two letters before the colon: one would be a Windows drive. ``simplecache::https://…``
is a chain of fsspec."""

_DRIVE = re.compile(r"/[A-Za-z]:")

_MAX_NAMES = 2_000
"""Names in a directory that a misspelt one is compared with."""

_MAX_DIRECTORY_NAME = 60
"""Characters, each of which takes up to 4 of the 255 bytes of a file name."""


@dataclass(frozen=True, slots=True)
class HubRepo:
    """A model repository on the Hub, at a revision."""

    repo_id: str
    """``org/name``."""
    revision: str | None = None
    """A branch, tag, commit or ``refs/pr/N``; the main branch if ``None``."""

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which is immutable."""
        return self.revision is not None and bool(_COMMIT.fullmatch(self.revision))

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision}" if self.revision else self.repo_id


@dataclass(frozen=True, slots=True, repr=False)
class Url:
    """The URL of a directory or a file."""

    text: str
    """As the user gave it, with any secrets; passed to the library of the protocol."""

    def __post_init__(self) -> None:
        remember_secrets(self.text)

    @property
    def protocol(self) -> str:
        """The part before ``://``, in a chain that of its last link."""
        return self.text.partition("://")[0].rpartition("::")[2]

    @property
    def protocols(self) -> set[str]:
        """Those of all links of a chain."""
        return set(re.findall(r"(?:^|::)([a-z0-9+.-]+)(?=://|::)", self.text))

    @property
    def redacted(self) -> str:
        """Without secrets and trailing slashes, for messages, manifests and model cards."""
        protocol, separator, rest = redact_url(self.text).partition("://")
        return f"{protocol}{separator}{rest.rstrip('/')}"

    @property
    def name(self) -> str:
        """The last component of its path."""
        return self.redacted.partition("://")[2].rpartition("/")[2]

    @property
    def local_name(self) -> str:
        """A safe name for a local directory; never one that refers to a parent directory."""
        safe = len(self.name) <= _MAX_DIRECTORY_NAME and not name_problem(self.name)
        return self.name if safe else "checkpoint"

    def __truediv__(self, name: str) -> Self:
        return type(self)(append_name(self.text, name))

    def __str__(self) -> str:
        return self.redacted

    def __repr__(self) -> str:
        return f"Url({self.redacted!r})"


def append_name(url: str, name: str) -> str:
    """Return the URL of a file in the directory `url`, whose query over HTTP is kept."""
    is_http = url.rpartition("::")[2].lower().startswith(("http://", "https://"))
    match = re.fullmatch(r"([^?#]*)([?#].*)?" if is_http else "(.*)()", url, re.DOTALL)
    directory, query = match.groups("") if match else (url, "")
    return f"{directory.rstrip('/')}/{name}{query}"


def parse_repo_id(reference: str | Path) -> HubRepo | None:
    """Return the Hub repository that `reference` names, ``None`` if it can only be a path.

    That is ``org/name`` or ``org/name@revision``, unless such a path exists, or the same after
    ``hf://``.
    """
    text = str(reference)
    explicit = text.startswith("hf://")
    match = _REPO_ID.fullmatch(text.removeprefix("hf://").rstrip("/") if explicit else text)
    if match is None:
        return None
    if not explicit and (Path(text).exists() or Path(text).suffix.lower() in _FILE_SUFFIXES):
        return None
    if ".." in match[1] or "--" in match[1]:  # the Hub refuses such names
        return None
    return HubRepo(match[1], match[2])


def parse_url(reference: str | Path) -> Url | None:
    """Return the URL that `reference` is, ``None`` for a path, ``file://`` or a Hub repository."""
    match = _URL.fullmatch(str(reference))
    if match is None or parse_repo_id(reference):
        return None
    protocol = match[1].lower()
    return None if protocol == "file" else Url(f"{protocol}://{match[2]}")


def display_name(reference: str | Path) -> str:
    """Return what to call `reference` in messages and reports: without the secrets of a URL."""
    url = parse_url(reference)
    return url.redacted if url else str(reference)


def is_remote(reference: str | Path) -> bool:
    """Return whether `reference` is a URL or a Hub id, and not a local path."""
    return bool(parse_repo_id(reference) or parse_url(reference))


def local_path(reference: str | Path) -> Path:
    """Return `reference` as a local path; ``file:///some/path`` becomes ``/some/path``.

    On Windows ``file:///C:/path`` becomes ``C:/path``.
    """
    if not str(reference).lower().startswith("file://"):
        return Path(reference)
    try:
        path = unquote(urlsplit(str(reference)).path) or "/"
    except ValueError as error:  # such as ``file://[``
        raise UsageError(f"{reference}: not a valid URL: {error}") from error
    return Path(path[1:] if IS_WINDOWS and _DRIVE.match(path) else path)


def similar_path(reference: str | Path) -> str | None:
    """Return a remedy with the existing path that a missing one is misspelt of, if there is one."""
    path = local_path(reference)
    try:
        missing = next(each for each in reversed((path, *path.parents)) if not each.exists())
        names = [each.name for each in islice(missing.parent.iterdir(), _MAX_NAMES)]
        for name in get_close_matches(missing.name, names, n=3):
            if (meant := missing.parent / name / path.relative_to(missing)).exists():
                return f"Did you mean {shlex.quote(str(meant))}?"
    except (OSError, ValueError, StopIteration):
        pass
    return None


def location_text(location: Path | Url) -> str:
    """Return a location as the user gave it, with any secrets, to open it again."""
    return location.text if isinstance(location, Url) else str(location)


def location_key(reference: str | Path) -> str:
    """Return a key that is equal for references to the same location; not to be shown."""
    if str(reference).startswith("hf://") and (repository := parse_repo_id(reference)):
        return f"hf://{repository}"
    url = parse_url(reference)
    if url is None:
        path = local_path(reference).resolve().as_posix()
        return name_key(path) if IGNORES_CASE else path
    # A query may be part of an object's name, while over HTTP it is a signature, which changes.
    query = "" if url.protocol in ("http", "https") else "".join(re.findall(r"[?#].*$", url.text))
    return url.redacted + query.rstrip("/")

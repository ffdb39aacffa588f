"""The files below a URL."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from converter.errors import ConverterError, UnsupportedError
from converter.optional_imports import install_hint
from converter.storage.hub_client import parse_repo_id

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
"""One letter before the colon would be a drive of Windows."""

_USER = re.compile(r"^[^/@]*@")
"""Who one is before a host, often with a password."""
_QUERY = re.compile(r"[?#].*$", re.DOTALL)
"""What may hold a signature; elsewhere than on the web it may belong to a name."""

_LOCAL = re.compile(r"[^\0/\\]{1,60}")
"""At most 60 letters, as no letter takes more than 4 of the 255 bytes that a name may have."""


@dataclass(frozen=True, slots=True)
class Url:
    """The URL of a directory or a file."""

    text: str
    """As it was given, which may hold secrets; the library of the protocol gets this."""

    @property
    def protocol(self) -> str:
        """What stands before ``://``."""
        return self.text.partition("://")[0]

    @property
    def bare(self) -> str:
        """Without secrets and without a slash at the end: for messages, manifests and cards."""
        rest = self.text.partition("://")[2]
        if self.protocol != "hf":
            rest = _USER.sub("", rest)
        if self.protocol in ("http", "https"):
            rest = _QUERY.sub("", rest)
        return f"{self.protocol}://{rest.rstrip('/')}"

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.bare.partition("://")[2].rpartition("/")[2]

    @property
    def local_name(self) -> str:
        """What a directory of this machine may be called after it: never one that leads upwards."""
        name = self.name
        return name if _LOCAL.fullmatch(name) and name not in (".", "..") else "checkpoint"

    def __truediv__(self, name: str) -> Self:
        return type(self)(f"{self.text.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.bare


def url_of(reference: str | Path) -> Url | None:
    """The URL that `reference` is; ``None`` for a path, also one as ``file://``, and an id of the
    Hub, also one as ``hf://``.
    """
    text = str(reference)
    found = _URL.fullmatch(text)
    if found is None or parse_repo_id(reference):
        return None
    protocol = found[1].lower()
    return None if protocol == "file" else Url(f"{protocol}://{found[2]}")


def path_of(reference: str | Path) -> Path:
    """The path that a reference is, if it is no URL; ``file:///some/path`` is ``/some/path``."""
    text = str(reference)
    if text.lower().startswith("file://"):
        return Path(unquote(urlsplit(text).path) or "/")
    return Path(reference)


def same_location_key(reference: str | Path) -> str:
    """What tells whether two references mean the same place: an absolute path, or the URL."""
    if str(reference).startswith("hf://") and (repository := parse_repo_id(reference)):
        return f"hf://{repository}"
    url = url_of(reference)
    return url.bare if url else str(path_of(reference).resolve())


_LIBRARIES = frozenset(
    "adlfs aiobotocore aiohttp azure botocore gcsfs google huggingface_hub paramiko requests "
    "s3fs urllib3 httpx httpcore".split()
)
"""The libraries of protocols, whose errors are told and not taken for our own."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""Protocol → the extra that brings its library."""

_LOGIN = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a server of your "
    "own also AWS_ENDPOINT_URL.",
    "gs": "Log in with `gcloud auth application-default login`, or set "
    "GOOGLE_APPLICATION_CREDENTIALS.",
    "hf": "Log in with `hf auth login`, or set HF_TOKEN.",
}
"""Extra or protocol → how to say who one is."""


@contextmanager
def translate_url_errors(kind: type[ConverterError], url: Url, what: str) -> Iterator[None]:
    """Turn what a protocol's library raises within the block into one error of `kind`.

    Args:
        kind: the class of the error.
        url: where.
        what: what could not be done, such as ``"cannot be read"``.

    Raises:
        ConverterError: of `kind`. Errors of this package pass as they are.

    """
    try:
        yield
    except ConverterError:
        raise
    except Exception as error:
        found = _reason(error, url)
        if found is None:
            raise
        reason, remedy = found
        lacking = isinstance(error, ImportError) or "Protocol not known" in str(error)
        raise (UnsupportedError if lacking else kind)(
            f"{url}: {what}: {reason}", remedy=remedy
        ) from error


def _reason(error: Exception, url: Url) -> tuple[str, str | None] | None:
    """What `error` means and what to do, ``None`` if it has nothing to do with the protocol."""
    name, text = type(error).__name__, _short(error)
    login = _LOGIN.get(_EXTRAS.get(url.protocol, url.protocol))
    if isinstance(error, ImportError):
        extra = _EXTRAS.get(url.protocol)
        hint = f"Install it: {install_hint(extra)}." if extra else None
        return f"the library for {url.protocol}:// is not installed ({text})", hint
    if isinstance(error, ValueError) and "Protocol not known" in text:
        return "there is no such protocol", "Known are s3://, gs://, hf:// and what fsspec knows."
    if isinstance(error, FileNotFoundError):
        if "bucket" in text.lower():
            bucket = url.bare.partition("://")[2].partition("/")[0]
            return f"there is no bucket {bucket}", "Make it first, or correct its name."
        return "there is nothing", "Look whether the URL is right."
    if isinstance(error, NotImplementedError):
        return f"{url.protocol}:// does not allow that", None
    if isinstance(error, PermissionError):
        return f"access is denied: {text}", login
    if "Credentials" in name or "ProfileNotFound" in name:
        return f"no credentials: {text}", login
    if isinstance(error, ConnectionError | TimeoutError) or "Connect" in name or "Timeout" in name:
        return f"no connection: {text}", "Look whether the server runs, and try again."
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _LIBRARIES:
        return text, None
    return None


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


_DEPTH = 2
"""A checkpoint has files in its directory, and in those of its halves or tokenizers."""

_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")
"""What the libraries call the time of the last change, those that know it."""


@dataclass(frozen=True)
class UrlListing:
    """What lies at a URL, as it was when that was asked for."""

    url: Url
    filesystem: Any
    """Of ``fsspec``."""
    path: str
    """Of the directory, as the file system spells it."""
    files: Mapping[str, Mapping[str, Any]]
    """Name below the directory → what is known of the file."""
    file: str | None = None
    """The name in the directory, if the URL is that of a file."""

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return int(self.files[name]["size"])

    def modified(self, name: str) -> float | None:
        """When a file was last written, in seconds since 1970; ``None`` where nobody knows."""
        info = self.files[name]
        value = next((info[key] for key in _TIMES if info.get(key) is not None), None)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                return None
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        return float(value) if isinstance(value, int | float) else None

    def at(self, name: str) -> str:
        """The path of a file, as the file system spells it."""
        return f"{self.path}/{name}"

    def read(self, name: str) -> bytes:
        """A small file."""
        with translate_url_errors(ConverterError, self.url / name, "cannot be read"):
            return bytes(self.filesystem.cat_file(self.at(name)))


def filesystem(url: Url, kind: type[ConverterError], *, own: bool = False) -> tuple[Any, str]:
    """The file system of a URL, and the path there.

    Args:
        url: which.
        kind: the class of errors.
        own: whether nobody else may use it, as its transactions are to be one's own.

    Raises:
        UnsupportedError: if the library of the protocol is not installed.
        ConverterError: of `kind`, if it cannot be had.

    """
    import fsspec

    with translate_url_errors(kind, url, "cannot be reached"):
        found, path = fsspec.core.url_to_fs(url.text, skip_instance_cache=own)
    return found, str(path).rstrip("/")


def listing(url: Url, kind: type[ConverterError], *, own: bool = False) -> UrlListing | None:
    """What lies at a URL, ``None`` if nothing does.

    Raises:
        ConverterError: of `kind`, if that cannot be told.

    """
    system, path = filesystem(url, kind, own=own)
    with translate_url_errors(kind, url, "cannot be listed"):
        system.invalidate_cache()
        try:
            found = system.find(path, maxdepth=_DEPTH, detail=True)
            if not found:
                system.ls(path)  # tells an empty place from one that cannot be seen
        except FileNotFoundError as error:
            if "bucket" in str(error).lower():
                raise
            return None
    lead = len(path) + 1
    files = {name[lead:]: info for name, info in found.items() if info.get("type") == "file"}
    if "" in files or (len(found) == 1 and path in found):  # the URL is that of a file
        parent, _, name = url.text.rstrip("/").rpartition("/")
        around = listing(Url(parent), kind, own=own)
        if around is None or name not in around.files:
            return None
        return UrlListing(Url(parent), around.filesystem, around.path, around.files, name)
    return UrlListing(url, system, path, files) if files else None

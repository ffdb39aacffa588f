"""Listing and reading the files at a URL with fsspec."""

from __future__ import annotations

import re
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from converter.cleanup import thread_pool
from converter.errors import CheckpointError, ConverterError, UnsupportedError
from converter.optional_imports import install_hint
from converter.storage.bounded_transfer import MAX_ANSWER_BYTES, TransferError, http_options
from converter.storage.references import Url, append_name
from converter.text import printable, redact

_LIBRARIES = frozenset(
    "adlfs aiobotocore aiohttp azure botocore gcsfs google huggingface_hub paramiko requests "
    "s3fs urllib3 httpx httpcore".split()
)
"""Libraries whose errors are reported to the user; others are bugs."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""Protocol → the extra that installs its library."""

_LOGIN = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for your own server "
    "also AWS_ENDPOINT_URL.",
    "gs": "Log in with `gcloud auth application-default login`, or set "
    "GOOGLE_APPLICATION_CREDENTIALS.",
    "hf": "Log in with `hf auth login`, or set HF_TOKEN.",
}
"""Extra or protocol → how to give credentials."""

_THREADS = 4
"""Concurrent transfers."""

_CACHE = re.compile(r"\b(?:simplecache|filecache|blockcache)(?:://)?::")
"""Links of a chain that keep what they download; here, every file is downloaded once."""

_MAX_DEPTH = 2
"""A checkpoint has files in its directory and in those of its submodels or tokenizers."""

_TIME_FIELDS = ("LastModified", "last_modified", "mtime", "updated", "created")
"""Names that the libraries give the time of the last change."""


@contextmanager
def translate_url_errors(kind: type[ConverterError], url: Url, action: str) -> Iterator[None]:
    """Turn errors of a protocol's library within the block into one error of `kind`.

    The message is the URL, `action`, such as ``"cannot be read"``, and the reason. Errors of this
    package pass unchanged. A missing library or an unknown protocol is an `UnsupportedError`.
    """
    try:
        yield
    except ConverterError:
        raise
    except Exception as error:
        explanation = _explain(error, url)
        if explanation is None:
            raise
        reason, remedy = explanation
        unsupported = isinstance(error, ImportError) or "Protocol not known" in str(error)
        raise (UnsupportedError if unsupported else kind)(
            f"{url}: {action}: {reason}", remedy=remedy
        ) from None


def _explain(error: Exception, url: Url) -> tuple[str, str | None] | None:
    """Return the reason and the remedy of `error`, ``None`` if it is not of a protocol."""
    name = type(error).__name__
    text = " ".join(redact(str(error)).split())[:300] or name
    login = _LOGIN.get(_EXTRAS.get(url.protocol, url.protocol))
    if isinstance(error, ImportError):
        extra = _EXTRAS.get(url.protocol)
        hint = f"Install it: {install_hint(extra)}." if extra else None
        return f"the library for {url.protocol}:// is not installed ({text})", hint
    if isinstance(error, ValueError) and "Protocol not known" in text:
        return "unknown protocol", "Use s3://, gs://, hf:// or another protocol of fsspec."
    if "Redirect" in name:
        return "the server redirects in a loop, or to something other than HTTP", "Check the URL."
    if isinstance(error, TransferError):
        return text, "Download its files by other means, and give the local directory."
    if isinstance(error, ValueError | TypeError):  # such as ``s3://``, ``http://[``, ``github://``
        return f"not a URL that can be used ({text})", "Check the URL."
    if isinstance(error, FileNotFoundError):
        if "bucket" in text.lower():
            bucket = url.redacted.partition("://")[2].partition("/")[0]
            return f"bucket {bucket} not found", "Create it first, or correct its name."
        return "not found", "Check the URL."
    if isinstance(error, NotImplementedError):
        return f"{url.protocol}:// does not support this", None
    if isinstance(error, PermissionError):
        return f"access is denied: {text}", login
    if "Credentials" in name or "ProfileNotFound" in name:
        return f"no credentials: {text}", login
    if isinstance(error, ConnectionError | TimeoutError) or "Connect" in name or "Timeout" in name:
        return f"no connection: {text}", "Check that the server is running, and try again."
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _LIBRARIES:
        return text, None
    return (text, None) if _is_of_library(error) else None


def _is_of_library(error: Exception) -> bool:
    """Return whether a library raised `error`, of a malformed URL or answer, in its own code."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return not frames[-1].f_globals.get("__name__", "").startswith("converter")


@dataclass(frozen=True)
class UrlListing:
    """The files below a URL at the time of listing."""

    url: Url
    filesystem: Any
    """Of ``fsspec``."""
    path: str
    """The directory, as the file system spells it."""
    files: Mapping[str, Mapping[str, Any]]
    """Relative name → what the file system reports of the file."""
    file: str | None = None
    """The name of the file, if the URL is that of a file in the directory."""
    sizes: dict[str, int] = field(default_factory=dict, compare=False)
    """Those asked for so far, in bytes."""

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        if name not in self.sizes:
            path, url = self.remote_path(name), self.url / name
            size = self.files[name].get("size")
            if size is None:  # HTTP servers list names only
                with translate_url_errors(CheckpointError, url, "cannot be read"):
                    size = self.filesystem.info(path).get("size")
            if not isinstance(size, int) or size < 0:
                raise CheckpointError(f"{url}: cannot be read: the server does not state its size")
            self.sizes[name] = size
        return self.sizes[name]

    def modified(self, name: str) -> float | None:
        """Return when a file was last written, in seconds since 1970, ``None`` if unknown."""
        info = self.files[name]
        value = next((info[key] for key in _TIME_FIELDS if info.get(key) is not None), None)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                return None
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        return float(value) if isinstance(value, int | float) else None

    def remote_path(self, name: str) -> str:
        """Return the path of a file, as the file system spells it."""
        return append_name(self.path, name)

    def read(self, name: str) -> bytes:
        """Return the content of a small file."""
        return self.read_range(name, 0, min(self.size(name), MAX_ANSWER_BYTES))

    def read_range(self, name: str, offset: int, nbytes: int) -> bytes:
        """Return exactly `nbytes` bytes of a file from `offset`, or raise `CheckpointError`."""
        path, url = self.remote_path(name), self.url / name
        if not nbytes:
            return b""
        with translate_url_errors(CheckpointError, url, "cannot be read"):
            data = bytes(self.filesystem.cat_file(path, start=offset, end=offset + nbytes))
            if len(data) != nbytes:
                raise TransferError(f"{len(data):,} of {nbytes:,} bytes were received")
            return data


def filesystem(url: Url, kind: type[ConverterError], *, cached: bool = True) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it.

    Without `cached`, no other caller shares the file system and its transactions. Raise an error of
    `kind`, or `UnsupportedError`, if it is not available.
    """
    import fsspec

    with translate_url_errors(kind, url, "cannot be reached"):
        options = {each: {**http_options()} for each in url.protocols & {"http", "https"}}
        system, path = fsspec.core.url_to_fs(
            _CACHE.sub("", url.text), skip_instance_cache=not cached, **options
        )
    return system, str(path).rstrip("/")


def list_url(url: Url, kind: type[ConverterError], *, cached: bool = True) -> UrlListing | None:
    """Return the files below a URL, ``None`` if not found; raise an error of `kind` if it fails."""
    system, path = filesystem(url, kind, cached=cached)
    with translate_url_errors(kind, url, "cannot be listed"):
        system.invalidate_cache()
        try:
            infos = system.find(path, maxdepth=_MAX_DEPTH, detail=True)
            if not infos:
                system.ls(path)  # raises if the directory is missing or may not be listed
        except FileNotFoundError as error:
            if "bucket" in str(error).lower():
                raise
            return None
    start = len(path) + 1
    files = {name[start:]: info for name, info in infos.items() if info.get("type") == "file"}
    if "" in files or (len(infos) == 1 and path in infos):  # the URL is that of a file
        parent, _, name = url.text.rstrip("/").rpartition("/")
        siblings = list_url(Url(parent), kind, cached=cached)
        return replace(siblings, file=name) if siblings and name in siblings.files else None
    return UrlListing(url, system, path, files) if files else None


def transfer(
    title: str, sizes: Mapping[str, int], work: Callable[[str, Callable[[int], None]], None]
) -> None:
    """Transfer files on several threads, with a progress bar if standard error is a terminal.

    `sizes` has the bytes of each file by its name. `work` transfers the file of a name; it calls
    its second argument with the number of bytes after each block. That call raises
    `InterruptedError` once another file has failed.
    """
    from huggingface_hub import utils

    tqdm: Any = utils.tqdm  # type: ignore[attr-defined]
    lock, cancelled = threading.Lock(), threading.Event()
    bar = tqdm(  # disabled unless standard error is a terminal
        desc=printable(title),
        total=sum(sizes.values()),
        unit="B",
        unit_scale=True,
        leave=False,
        disable=None,
    )
    with bar, thread_pool(_THREADS, cancelled.set) as threads:

        def advance(nbytes: int) -> None:
            if cancelled.is_set():
                raise InterruptedError("cancelled")
            with lock:
                bar.update(nbytes)

        futures = [threads.submit(work, name, advance) for name in sizes]
        for future in wait(futures, return_when=FIRST_EXCEPTION).done:
            future.result()

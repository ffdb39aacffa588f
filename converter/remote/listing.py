"""The files below a URL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from converter.errors import ConverterError
from converter.remote.failure import telling
from converter.remote.url import Url

_DEPTH = 2
"""A checkpoint has files in its directory, and in those of its halves or tokenizers."""

_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")
"""What the libraries call the time of the last change, those that know it."""


@dataclass(frozen=True)
class Listing:
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
        with telling(ConverterError, self.url / name, "cannot be read"):
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

    with telling(kind, url, "cannot be reached"):
        found, path = fsspec.core.url_to_fs(url.text, skip_instance_cache=own)
    return found, str(path).rstrip("/")


def listing(url: Url, kind: type[ConverterError], *, own: bool = False) -> Listing | None:
    """What lies at a URL, ``None`` if nothing does.

    Raises:
        ConverterError: of `kind`, if that cannot be told.
    """
    system, path = filesystem(url, kind, own=own)
    with telling(kind, url, "cannot be listed"):
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
        return Listing(Url(parent), around.filesystem, around.path, around.files, name)
    return Listing(url, system, path, files) if files else None

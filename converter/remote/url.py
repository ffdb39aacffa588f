"""Telling a URL from a path, and its parts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from converter.hub.reference import hub_id

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
    Hub, also one as ``hf://``."""
    text = str(reference)
    found = _URL.fullmatch(text)
    if found is None or hub_id(reference):
        return None
    protocol = found[1].lower()
    return None if protocol == "file" else Url(f"{protocol}://{found[2]}")


def path_of(reference: str | Path) -> Path:
    """The path that a reference is, if it is no URL; ``file:///some/path`` is ``/some/path``."""
    text = str(reference)
    if text.lower().startswith("file://"):
        return Path(unquote(urlsplit(text).path) or "/")
    return Path(reference)


def place_of(reference: str | Path) -> str:
    """What tells whether two references mean the same place: an absolute path, or the URL."""
    if str(reference).startswith("hf://") and (repository := hub_id(reference)):
        return f"hf://{repository}"
    url = url_of(reference)
    return url.bare if url else str(path_of(reference).resolve())

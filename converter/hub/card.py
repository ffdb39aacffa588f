"""The frame of a model card: its seal, by which an unchanged card of ours is known, and licences.

A card that somebody wrote, or changed, is theirs and is never written over.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

CARD = "README.md"

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


def sealed(text: str) -> bytes:
    """A card of ours, with its seal."""
    data = text.rstrip("\n").encode() + b"\n"
    return data + f"\n<!-- converter: {_digest(data)} -->\n".encode()


def is_ours(card: bytes) -> bool:
    """Whether a card was made here and not changed since."""
    found = _SEAL.search(card)
    return found is not None and found[1].decode() == _digest(card[: found.start()])


def for_repository(card: bytes, repo_id: str) -> bytes:
    """A card of ours with the repository in its examples; any other as it is."""
    found = _SEAL.search(card)
    if not found or not is_ours(card):
        return card
    return sealed(card[: found.start()].decode().replace(PLACEHOLDER, repo_id))


def read_card(directory: Path) -> bytes | None:
    """The card in a directory, ``None`` if there is none that can be read."""
    path = directory / CARD
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

"""Telling an id of the Hub from a path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_ID = re.compile(rf"({_PART}/{_PART})(?:@([^\s@]{{1,200}}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")

_FILES = frozenset(".bin .ckpt .h5 .hdf5 .index .json .msgpack .pt .pth .safetensors".split())
"""What the name of a weight file ends in, and hardly ever that of a repository."""


@dataclass(frozen=True, slots=True)
class HubId:
    """A repository of models on the Hub, at a revision."""

    repo_id: str
    """``org/name``."""
    revision: str | None = None
    """A branch, tag, commit or ``refs/pr/N``; the main branch unless given."""

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which can never mean anything else."""
        return self.revision is not None and bool(_COMMIT.fullmatch(self.revision))

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision}" if self.revision else self.repo_id


def hub_id(reference: str | Path) -> HubId | None:
    """The id that `reference` is, ``None`` if it can only be a path. A path that exists wins.

    Args:
        reference: ``org/name``, ``org/name@revision``, the same behind ``hf://``, or a path.
    """
    text = str(reference)
    sure = text.startswith("hf://")
    found = _ID.fullmatch(text.removeprefix("hf://").rstrip("/") if sure else text)
    if found is None:
        return None
    if not sure and (Path(text).exists() or Path(text).suffix.lower() in _FILES):
        return None
    if ".." in found[1] or "--" in found[1]:  # the Hub has no such names
        return None
    return HubId(found[1], found[2])

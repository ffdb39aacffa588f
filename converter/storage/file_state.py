"""Noticing that a file was changed while it was being read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from converter.errors import CheckpointError, Problem


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells a file from what may lie in its place later."""

    file: tuple[int, int]
    """Device and inode."""
    nbytes: int
    mtime_ns: int
    """Time of the last change, in nanoseconds since 1970."""


def file_states(paths: Iterable[Path]) -> dict[Path, FileState]:
    """The stamp of each file; links are followed.

    Raises:
        CheckpointError: if one cannot be looked at.

    """
    found = {}
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        place = (status.st_dev, status.st_ino)
        found[path] = FileState(place, status.st_size, status.st_mtime_ns)
    return found


def check_unchanged(known: Mapping[Path, FileState]) -> None:
    """Make sure that every file is still as it was when its stamp was taken.

    Raises:
        CheckpointError: with every file that was changed, replaced or removed.

    """
    problems = [
        Problem(what, file=str(path))
        for path, stamp in known.items()
        if (what := _change(path, stamp))
    ]
    if problems:
        raise CheckpointError(
            "A source was changed while it was read; nothing is written.",
            problems,
            remedy="Run again once nothing writes to it any more.",
        )


def _change(path: Path, stamp: FileState) -> str:
    """What happened to a file, nothing if nothing did."""
    try:
        (now,) = file_states([path]).values()
    except CheckpointError:
        return "is gone"
    if now.file != stamp.file:
        return "was replaced by another file"
    if now.nbytes != stamp.nbytes:
        return f"had {stamp.nbytes:,} bytes and has {now.nbytes:,} now"
    return "" if now == stamp else "was written to"

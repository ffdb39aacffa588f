"""Local directories and files as sources and output targets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from converter.errors import CheckpointError, OutputError, Problem
from converter.file_names import (
    MANIFEST,
    SAVED_MODEL,
    TF_CHECKPOINT_STATE,
    TF_INDEX_SUFFIX,
    tf_checkpoint_prefix,
)
from converter.formats.file_handle import LocalFile
from converter.safe_json import file_to_copy, read_small_file
from converter.storage.atomic_directory import atomic_directory
from converter.storage.base import (
    MAX_METADATA_BYTES,
    CheckpointDirectory,
    Source,
    is_inside,
    source_overlap_error,
)
from converter.storage.references import local_path, similar_path
from converter.system import set_time


def local_source(reference: str | Path) -> Source:
    """Return the source at the path of a directory, a file or a TensorFlow checkpoint's prefix."""
    path = local_path(reference)
    if path.name == SAVED_MODEL and path.is_file():
        path = path.parent
    if path.is_dir():
        return Source(str(reference), CheckpointDirectory(path))
    file = tf_checkpoint_index(path) or (path if path.is_file() else None)
    if file is None:
        raise CheckpointError(
            f"{reference}: no such file or directory",
            remedy=similar_path(reference)
            or "Give a directory with config.json and weights, one weight file, a Hub id such "
            "as org/name, or a URL such as s3://bucket/name.",
        )
    return Source(str(reference), CheckpointDirectory(path.parent), file)


def tf_checkpoint_index(path: Path) -> Path | None:
    """Return the index file of the TensorFlow checkpoint that `path` names, ``None`` if not one.

    The path is that of a data file, of a ``checkpoint`` file that names the newest checkpoint, or
    the prefix of all its files: ``DIR/bert_model.ckpt``.
    """
    if path.name == TF_CHECKPOINT_STATE and path.is_file():
        from converter.formats.tensorflow_checkpoint.protobuf import read_checkpoint_state

        newest = read_checkpoint_state(LocalFile(path))
        path = path.with_name(newest) if newest else path
    prefix = tf_checkpoint_prefix(path.name)
    index = path.parent / (prefix + TF_INDEX_SUFFIX)
    is_prefix_or_data = prefix != path.name or not path.is_file()
    return index if is_prefix_or_data and index.is_file() else None


@dataclass(frozen=True)
class LocalTarget:
    """A local directory; see `OutputTarget`."""

    location: Path

    def files(self) -> Mapping[str, int]:
        """Return the size in bytes of every file, by relative path."""
        return {
            path.relative_to(self.location).as_posix(): path.stat().st_size
            for path in self.location.rglob("*")
            if path.is_file()
        }

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file."""
        path = file_to_copy(self.location, name, OutputError)
        return read_small_file(path, MAX_METADATA_BYTES, OutputError) if path else None

    def modified(self, name: str) -> float | None:
        """Return when a file was written."""
        try:
            return (self.location / name).stat().st_mtime
        except OSError:
            return None

    def may_have_changed(self, names: Iterable[str]) -> list[str]:
        """Return the files whose times differ from the manifest's; see `set_equal_times`."""
        written = (self.location / MANIFEST).stat().st_mtime_ns
        return [n for n in names if (self.location / n).stat().st_mtime_ns != written]

    def open_for_writing(
        self, overwrite: bool, resume: str | None, sync: bool
    ) -> AbstractContextManager[Path]:
        """Return a sibling directory that is renamed at the end."""
        return atomic_directory(self.location, overwrite, resume, sync)

    def check_not_a_source(self, files: Iterable[Path], references: Iterable[str]) -> None:
        """Refuse to replace files that are being read."""
        target = Path(os.path.realpath(self.location))
        if not target.is_dir():
            return
        for file in files:
            link = Path(os.path.realpath(file.parent)) / file.name
            if any(is_inside(path, target) for path in (link, Path(os.path.realpath(file)))):
                raise source_overlap_error(self.location, file)


def set_equal_times(directory: Path) -> None:
    """Give all files in a finished output the time of its manifest.

    So every later change shows, also by a file with an older time, as ``cp -p`` leaves it.
    """
    time = (directory / MANIFEST).stat().st_mtime_ns
    for path in directory.rglob("*"):
        if path.is_file():
            set_time(path, time)


@dataclass(frozen=True, slots=True)
class FileState:
    """What identifies the content of a file without reading it."""

    file: tuple[int, int]
    """Device and inode."""
    nbytes: int
    mtime_ns: int
    """Time of the last change, in nanoseconds since 1970."""


def file_states(paths: Iterable[Path]) -> dict[Path, FileState]:
    """Return the state of each file; links are followed."""
    states = {}
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        inode = (status.st_dev, status.st_ino)
        states[path] = FileState(inode, status.st_size, status.st_mtime_ns)
    return states


def check_unchanged(states: Mapping[Path, FileState]) -> None:
    """Raise `CheckpointError` with every file that has changed since its state was recorded."""
    problems = [
        Problem(change, file=str(path))
        for path, state in states.items()
        if (change := _change(path, state))
    ]
    if problems:
        raise CheckpointError(
            "A source was changed while it was read; nothing is written.",
            problems,
            remedy="Run again when no other program writes to it.",
        )


def _change(path: Path, before: FileState) -> str:
    try:
        (now,) = file_states([path]).values()
    except CheckpointError:
        return "was removed"
    if now.file != before.file:
        return "was replaced by another file"
    if now.nbytes != before.nbytes:
        return f"had {before.nbytes:,} bytes and has {now.nbytes:,} now"
    return "" if now == before else "was modified"

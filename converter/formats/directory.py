"""A directory of weight files, on this machine or on another one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from converter.formats.files import FileHandle, LocalFile
from converter.formats.range_reader import RangedFile, RangeSource


class CheckpointDirectory(Protocol):
    """A directory whose files are listed, and opened by their name."""

    @property
    def path(self) -> Path:
        """Where it lies, or what to call it in messages; small files do lie there."""

    def names(self) -> Collection[str]:
        """The names of the files in it."""

    def holds(self, name: str) -> bool:
        """Whether there is a file of that name."""

    def is_local(self, name: str) -> bool:
        """Whether it lies on this machine, where somebody may change it."""

    def size(self, path: Path) -> int:
        """Bytes of a file in it, or below it."""

    def open(self, name: str) -> FileHandle:
        """A file, open for reading.

        Raises:
            CheckpointError: if there is none, or it cannot be had.

        """


class LocalFolder:
    """A directory of this machine; see `CheckpointDirectory`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> Collection[str]:
        """The names of the files in it."""
        return sorted(path.name for path in self.path.iterdir() if path.is_file())

    def holds(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return (self.path / name).is_file()

    def is_local(self, name: str) -> bool:
        """It is."""
        return True

    def size(self, path: Path) -> int:
        """Bytes of a file in it, or below it."""
        return path.stat().st_size

    def open(self, name: str) -> FileHandle:
        """A file, open for reading; see `Folder.open`."""
        return LocalFile(self.path / name)


class RemoteDirectory:
    """A remote directory, of which some files may be downloaded; see `CheckpointDirectory`.

    Args:
        path: where fetched files lie; those of this name are used, not those of the other machine.
        sizes: the name of each file there → its bytes.
        ranges: gives the bytes of one, by its name.

    """

    def __init__(
        self, path: Path, sizes: Mapping[str, int], ranges: Callable[[str], RangeSource]
    ) -> None:
        self.path = path
        self._sizes = sizes
        self._ranges = ranges

    def names(self) -> Collection[str]:
        """The names of the files in it."""
        return self._sizes.keys()

    def holds(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return name in self._sizes

    def is_local(self, name: str) -> bool:
        """Whether it was fetched."""
        return (self.path / name).is_file()

    def size(self, path: Path) -> int:
        """Bytes of a file in it."""
        return self._sizes[path.name]

    def open(self, name: str) -> FileHandle:
        """A file, open for reading; see `Folder.open`."""
        if self.is_local(name):
            return LocalFile(self.path / name)
        return RangedFile(self.path / name, self._ranges(name), self._open_beside)

    def _open_beside(self, name: str) -> FileHandle | None:
        return self.open(name) if self.holds(name) else None

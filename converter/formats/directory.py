"""A directory of weight files, local or remote."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from converter.formats.file_handle import FileHandle, LocalFile
from converter.formats.range_reader import RangedFile, RangeSource


class CheckpointDirectory:
    """A local directory of weight files, or the interface of a remote one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> Collection[str]:
        """Return the names of the files in it."""
        return sorted(path.name for path in self.path.iterdir() if path.is_file())

    def holds(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        return (self.path / name).is_file()

    def is_local(self, name: str) -> bool:
        """Return true: every file may change."""
        return True

    def size(self, path: Path) -> int:
        """Return the bytes of a file in it, or below it."""
        return path.stat().st_size

    def name(self, path: Path) -> str:
        """Return the name of a file in it, or below it: the relative path."""
        return path.relative_to(self.path).as_posix()

    def open(self, name: str) -> FileHandle:
        """Open a file for reading; raise CheckpointError if it cannot be opened."""
        return LocalFile(self.path / name)


class RemoteDirectory(CheckpointDirectory):
    """A remote directory; downloaded files, in `path`, take precedence over remote ones.

    `sizes` holds the bytes of each remote file by name; `ranges` reads parts of it.
    """

    def __init__(
        self, path: Path, sizes: Mapping[str, int], ranges: Callable[[str], RangeSource]
    ) -> None:
        super().__init__(path)
        self._sizes = sizes
        self._ranges = ranges

    def names(self) -> Collection[str]:
        """Return the names of the files in it."""
        return [name for name in self._sizes if "/" not in name]

    def holds(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        return name in self._sizes

    def is_local(self, name: str) -> bool:
        """Return whether the file was downloaded, and thus may change."""
        return super().holds(name)

    def size(self, path: Path) -> int:
        """Return the bytes of a file in it, or below it."""
        return self._sizes[self.name(path)]

    def open(self, name: str) -> FileHandle:
        """Open a file for reading, the downloaded one if there is one."""
        if self.is_local(name):
            return super().open(name)
        path = self.path / name

        def open_sibling(sibling: str) -> FileHandle | None:
            other = self.name(path.with_name(sibling))
            return self.open(other) if self.holds(other) else None

        return RangedFile(path, self._ranges(name), open_sibling)

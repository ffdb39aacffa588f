"""Locations that checkpoints are read from, and the interface of those they are written to."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from converter.cleanup import TemporaryDirectory
from converter.errors import CheckpointError, OutputError, Problem, UsageError
from converter.file_names import WEIGHT_FILES
from converter.formats.file_handle import FileHandle, LocalFile
from converter.formats.range_reader import RangedFile, RangeSource
from converter.recognition import Folder, recognize_folder
from converter.safe_json import read_json_object
from converter.storage.references import Url
from converter.storage.streaming import Download, StreamedFile


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

    `sizes` holds the bytes of each remote file by name; `ranges` reads parts of it; `downloads`
    has those that will be downloaded before their values are read.
    """

    def __init__(
        self,
        path: Path,
        sizes: Mapping[str, int],
        ranges: Callable[[str], RangeSource],
        downloads: Mapping[str, Download] | None = None,
    ) -> None:
        super().__init__(path)
        self._sizes = sizes
        self._ranges = ranges
        self._downloads = downloads or {}

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

        if download := self._downloads.get(name):
            return StreamedFile(path, self._ranges(name), open_sibling, download)
        return RangedFile(path, self._ranges(name), open_sibling)


WeightSelection: TypeAlias = Literal["preferred", "all", "none", "headers", "streamed"]
"""The weight files to download: those of the preferred format (safetensors before PyTorch,
TensorFlow and Flax), of all formats, none, or only the headers of the preferred format, which are
read remotely. ``streamed`` are those of the preferred format, if possible left to
`Source.downloads`."""

_MAX_NAME = 1_000
"""Characters of the path of a file in a checkpoint."""
MAX_METADATA_BYTES = 64 << 20
"""Larger than any file of a checkpoint other than weights."""


@dataclass(frozen=True)
class Source(AbstractContextManager["Source"]):
    """A directory that a checkpoint is read from, or a file in it; remote ones are subclasses.

    Close it, or use it as a context manager.
    """

    reference: str
    """What to call it in messages: the user's reference, without secrets."""
    folder: CheckpointDirectory
    """Its files; those that were not downloaded are read in ranges."""
    file: Path | None = None
    """The file in `folder` that the reference names, ``None`` if it names the directory."""
    temporary: TemporaryDirectory | None = None
    """The directory of downloaded files, which `close` removes."""
    downloads: Sequence[Download] = ()
    """Files that are to be downloaded while their values are read."""

    @property
    def directory(self) -> Path:
        """The local directory that holds at least the files other than weights."""
        return self.folder.path

    @property
    def repo_id(self) -> str | None:
        """``org/name``, if it is a Hub repository."""
        return None

    @property
    def parent(self) -> str:
        """The location of the directory that holds it."""
        return str(self.directory.resolve().parent)

    def describe(self) -> dict[str, str]:
        """Return its ``reference`` and ``revision`` for manifests, without local paths."""
        return {"reference": self.directory.resolve().name}

    def modified_since(self, timestamp: float, files: Iterable[Path]) -> bool:
        """Return whether `files` may have changed since `timestamp`, in seconds since 1970."""
        return any(path.stat().st_mtime > timestamp for path in files)

    def rename(self, problem: Problem) -> Problem:
        """Return `problem` with the user's reference instead of a temporary path."""
        return problem

    def close(self) -> None:
        """Remove temporary files."""
        if self.temporary is not None:
            self.temporary.close()

    def __exit__(self, *details: Any) -> None:
        self.close()


class OutputTarget(Protocol):
    """A location that a checkpoint is written to."""

    @property
    def location(self) -> Path | Url:
        """What to call it in messages and reports."""

    def files(self) -> Mapping[str, int]:
        """Return the size in bytes of every file that it holds, by name."""

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file, ``None`` if it is missing.

        A remote one that is too large is missing; a local one that is too large, is not a regular
        file or is a link out of the directory raises `OutputError`.
        """

    def modified(self, name: str) -> float | None:
        """Return when a file was written, in seconds since 1970, ``None`` if unknown."""

    def may_have_changed(self, names: Iterable[str]) -> list[str]:
        """Return the files that may have been written to since the manifest, by their times."""

    def open_for_writing(
        self, overwrite: bool, resume: str | None, sync: bool
    ) -> AbstractContextManager[Path]:
        """Return a local directory whose files replace the target's when the block succeeds.

        `resume` is a key that identifies the work, to continue after an interruption. With `sync`,
        files and names are written through to the disk. Raise `OutputError` if existing files may
        not be replaced, or writing fails, and `UsageError` if the target cannot resume or sync.
        """

    def check_not_a_source(self, files: Iterable[Path], references: Iterable[str]) -> None:
        """Refuse to replace files that are being read, even with ``--overwrite``.

        Raise `OutputError` if a source, of which the local `files` are read, is in the target
        directory or below it. Writing into its directory, below it or next to it, is allowed.
        """


@contextmanager
def temporary_output(name: str, resume: str | None, sync: bool) -> Iterator[Path]:
    """Yield a temporary directory called `name` for an output that is uploaded at the end."""
    if resume:  # the directory does not outlive the command
        raise UsageError("resume: only a local output can be resumed")
    if sync:
        raise UsageError("sync: only a local output can be written through to the disk")
    with TemporaryDirectory() as temporary:
        directory = temporary.path / name
        directory.mkdir()
        yield directory


def is_inside(path: Path, directory: Path) -> bool:
    """Return whether `path` is the existing `directory`, or in it.

    By identity: file systems may ignore case, and a directory may be mounted at two places.
    """
    target = directory.stat()
    for each in (path, *path.parents):
        with suppress(OSError):
            if os.path.samestat(each.stat(), target):
                return True
    return False


def source_overlap_error(output: object, source: object) -> OutputError:
    """Return the error for an output that would replace a source."""
    return OutputError(
        f"{output} contains a source, which the output would replace",
        [Problem("is being read", file=str(source))],
        remedy="Choose another output location.",
    )


def not_a_directory_error(output: object) -> OutputError:
    """Return the error for an output that is a file."""
    return OutputError(
        f"{output} exists and is not a directory", remedy="Choose another output location."
    )


def check_overwrite(output: object, *, is_checkpoint: bool, overwrite: bool) -> None:
    """Raise `OutputError` unless `output`, a directory with files, may be replaced.

    A checkpoint is a directory that holds one of `CHECKPOINT_MARKERS`.
    """
    if not is_checkpoint:
        raise OutputError(
            f"{output} exists, is not empty and is not a checkpoint (it has no config.json)",
            remedy="Choose another output location, or empty that directory.",
        )
    if not overwrite:
        raise OutputError(
            f"{output} exists", remedy="Add --overwrite to replace it, or choose another location."
        )


def no_weights_error(
    location: object, names: Iterable[str] = (), read: Callable[[str], Any] = lambda name: None
) -> CheckpointError:
    """Return the error for a directory or repository without weights: what it is, and what helps.

    `names` are the files in it and below it, of which `read` returns the content of a JSON file.
    """
    names = sorted(names)
    other = recognize_folder(Folder(str(location), names, read))
    if other:
        return CheckpointError(f"{location}: {other.what}", remedy=other.step)
    held = f" (it holds {', '.join(names[:8])}{', …' if names[8:] else ''})" if names else ""
    return CheckpointError(
        f"{location}: holds no weight file{held}",
        remedy="Expected one of " + ", ".join(WEIGHT_FILES) + " (or its index), a TensorFlow or an "
        "Orbax checkpoint, or one other weight file.",
    )


def check_file_name(name: str, location: object) -> None:
    """Raise `CheckpointError` unless `name`, as a server lists it, is a path in its directory."""
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name and len(name) <= _MAX_NAME
    if not plain or any(part in ("", ".", "..") or len(part) > 255 for part in parts):
        raise CheckpointError(f"{location}: {name[:80]!r} is not a file name in it")


def shard_names(index: Path) -> list[str]:
    """Return the names of the files that a shard index lists, unchecked."""
    weight_map = read_json_object(index).get("weight_map")
    names = weight_map.values() if isinstance(weight_map, dict) else ()
    return sorted({str(name) for name in names})

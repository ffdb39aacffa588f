"""A finished directory to a URL: first all bytes, then the names, those that readers look for last.

No file has its name there before the last byte of the last file has arrived: `fsspec` holds written
files back until they are committed (on S3, a multipart upload that is not completed). So whatever
ends a run before, there is nothing new, and what was there is as it was. The commits themselves
carry no data. They go from the weights to the configuration to the manifest.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from converter.errors import OutputError, Problem
from converter.file_names import (
    CHECKPOINT_MARKERS,
    CONFIG,
    INDEX_SUFFIX,
    MANIFEST,
    WEIGHT_FILES,
    auxiliary_files,
)
from converter.storage.url import Url, UrlListing, filesystem, listing, translate_url_errors
from converter.storage.url_download import bar

_BLOCK = 16 << 20
"""Bytes that are sent at a time."""

_AT_ONCE = 4
"""Files that are sent at the same time."""

_PARTS = 9_000
"""Parts that a file may have; S3 allows 10,000."""


@contextmanager
def upload_directory(url: Url, overwrite: bool) -> Iterator[Path]:
    """A temporary directory whose files lie at `url` when the block ends well.

    Args:
        url: of a directory.
        overwrite: whether a checkpoint that is already there may be replaced.

    Raises:
        OutputError: if something is there that may not be replaced, or it cannot be written.
        UnsupportedError: if the library of the protocol is not installed.

    """
    _require_replaceable(listing(url, OutputError, own=True), url, overwrite)
    with tempfile.TemporaryDirectory(prefix="converter-", ignore_cleanup_errors=True) as home:
        directory = Path(home) / url.local_name
        directory.mkdir()
        yield directory
        _Upload(url, directory, overwrite).send()


def _require_replaceable(held: UrlListing | None, url: Url, overwrite: bool) -> None:
    if held is None:
        return
    if held.file is not None:
        raise OutputError(
            f"{url} exists and is not a directory", remedy="Choose another place for the output."
        )
    if not any(mark in held.files for mark in CHECKPOINT_MARKERS):
        raise OutputError(
            f"{url} exists, is not empty and is no checkpoint (it has no config.json)",
            remedy="Choose another place for the output, or empty that one.",
        )
    if not overwrite:
        raise OutputError(
            f"{url} exists", remedy="Add --overwrite to replace it, or choose another place."
        )


def commit_order(names: Sequence[str]) -> list[str]:
    """Files as they are to appear: weights, what goes with them, indexes, configurations, and the
    manifest last.
    """

    def rank(name: str) -> tuple[int, str]:
        last = name.rpartition("/")[2]
        if name == MANIFEST:
            return 4, name
        if last == CONFIG:
            return 3, name
        if last.endswith(INDEX_SUFFIX):
            return 2, name
        return int(last in auxiliary_files([last])), name

    return sorted(names, key=rank)


class _Upload:
    """One upload.

    Args:
        url: where to.
        directory: the finished files.
        overwrite: whether a checkpoint that is there is replaced.

    """

    def __init__(self, url: Url, directory: Path, overwrite: bool) -> None:
        self.url, self.directory, self.overwrite = url, directory, overwrite
        self.system, self.path = filesystem(url, OutputError, own=True)
        self.system.start_transaction()  # some hold files back only then
        files = (path for path in directory.rglob("*") if path.is_file())
        self.names = commit_order([path.relative_to(directory).as_posix() for path in files])
        self.waiting: dict[str, Any] = {}
        """Files that have arrived, or are on their way, and have no name yet."""
        self.named: list[str] = []
        self.stopped = threading.Event()

    def send(self) -> None:
        """Send all files, then give them their names."""
        try:
            self.put_all()
            held = listing(self.url, OutputError, own=True)
            _require_replaceable(held, self.url, self.overwrite)  # it may be another one by now
            stale = _stale(held, self.names) if held else []
            with translate_url_errors(OutputError, self.url, "cannot be written"):
                self.remove(
                    [name for name in stale if name.rpartition("/")[2] in CHECKPOINT_MARKERS]
                )
                self.commit()
                self.remove([name for name in stale if name not in self.names])
        except BaseException as error:
            self.roll_back(error)
            raise

    def put_all(self) -> None:
        """Send all files, some at a time, without their names."""
        total = sum((self.directory / name).stat().st_size for name in self.names)
        with bar(f"Sending {self.url.name}", total) as advance:

            def put(name: str) -> None:
                try:
                    self.put(name, advance)
                except BaseException:
                    self.stopped.set()
                    raise

            with ThreadPoolExecutor(_AT_ONCE) as threads:
                try:
                    list(threads.map(put, self.names))
                finally:
                    self.stopped.set()

    def put(self, name: str, advance: Callable[[int], None]) -> None:
        """Send a file, without its name."""
        path, at = self.directory / name, self.at(name)
        block = max(_BLOCK, path.stat().st_size // _PARTS + 1)
        if self.stopped.is_set():
            return
        with (
            translate_url_errors(OutputError, self.url / name, "cannot be written"),
            path.open("rb") as source,
        ):
            self.system.makedirs(at.rpartition("/")[0], exist_ok=True)
            target = self.waiting[name] = self.system.open(
                at, "wb", block_size=block, autocommit=False
            )
            if not _holds_back(target):
                raise not_atomic_error(self.url)
            while data := source.read(_BLOCK):
                if self.stopped.is_set():
                    return
                target.write(data)
                advance(len(data))
            target.close()

    def commit(self) -> None:
        """Give every file its name."""
        for name in self.names:
            self.named.append(name)
            self.waiting[name].commit()
            del self.waiting[name]

    def remove(self, names: Sequence[str]) -> None:
        """Remove files that were there before."""
        for name in names:
            self.system.rm_file(self.at(name))

    def roll_back(self, error: BaseException) -> None:
        """Leave nothing behind; what cannot be taken back is told with the error."""
        for target in self.waiting.values():
            with suppress(Exception):
                target.discard()
            with suppress(Exception):
                target.closed = True  # else it would send the rest once nobody refers to it
        left = []
        for name in reversed(self.named):  # the manifest first
            try:
                if self.system.exists(self.at(name)):
                    self.system.rm_file(self.at(name))
            except Exception:
                left.append(name)
        if left and isinstance(error, OutputError):
            error.problems = (
                *error.problems,
                *(
                    Problem(
                        "remains there, of a checkpoint that is not whole",
                        file=f"{self.url}/{name}",
                    )
                    for name in left
                ),
            )

    def at(self, name: str) -> str:
        return f"{self.path}/{name}"


def _holds_back(file: Any) -> bool:
    """Whether a file that is written gets its name only when it is committed."""
    from fsspec.spec import AbstractBufferedFile

    commit = getattr(type(file), "commit", None)
    return commit not in (None, AbstractBufferedFile.commit)  # the latter does nothing


def not_atomic_error(url: Url) -> OutputError:
    """The error for a place where half a checkpoint could be seen."""
    return OutputError(
        f"{url}: cannot be written: there, files appear one by one while they are sent",
        remedy="Let OUTPUT be hf://org/name, a whole repository."
        if url.protocol == "hf"
        else "Let OUTPUT be a path of this machine, and copy it there.",
    )


def _stale(held: UrlListing, names: Sequence[str]) -> list[str]:
    """What of a checkpoint that is replaced has to go: its marks, and files that the new one lacks.

    Files that have nothing to do with a checkpoint stay.
    """
    lasts = {*CHECKPOINT_MARKERS, *WEIGHT_FILES}
    found = []
    for name in held.files:
        last = name.rpartition("/")[2]
        known = last in lasts or last.endswith(INDEX_SUFFIX) or bool(auxiliary_files([last]))
        shard = any(last.startswith(f"{Path(whole).stem}-") for whole in WEIGHT_FILES)
        if (
            last in CHECKPOINT_MARKERS
            or last.endswith(INDEX_SUFFIX)
            or ((known or shard) and name not in names)
        ):
            found.append(name)
    return found

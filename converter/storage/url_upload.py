"""Uploading a finished directory to a URL, so that it appears complete or not at all.

No file becomes visible before the last byte of the last file has arrived: `fsspec` keeps written
files uncommitted (on S3, a multipart upload that is not completed). A run that fails before leaves
the target unchanged. The commits carry no data; weights are committed first, the configuration and
the manifest, which readers look for, last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
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
from converter.storage.base import (
    MAX_METADATA_BYTES,
    check_overwrite,
    not_a_directory_error,
    source_overlap_error,
    temporary_output,
)
from converter.storage.references import Url
from converter.storage.url import UrlListing, filesystem, list_url, transfer, translate_url_errors

_BLOCK_BYTES = 16 << 20
"""Bytes to send at a time."""

_MAX_PARTS = 9_000
"""Parts of a multipart upload; S3 allows 10,000."""


@dataclass(frozen=True)
class UrlTarget:
    """A directory at a URL; see `OutputTarget`."""

    location: Url

    @cached_property
    def _listing(self) -> UrlListing | None:
        return list_url(self.location, OutputError)

    def files(self) -> Mapping[str, int]:
        """Return the size in bytes of every file, by name."""
        listing = self._listing
        return {name: listing.size(name) for name in listing.files} if listing else {}

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file."""
        listing = self._listing
        if listing is None or self.files().get(name, MAX_METADATA_BYTES + 1) > MAX_METADATA_BYTES:
            return None
        return listing.read(name)

    def modified(self, name: str) -> float | None:
        """Return when a file was written."""
        listing = self._listing
        return listing.modified(name) if listing and name in listing.files else None

    def may_have_changed(self, names: Iterable[str]) -> list[str]:
        """Return the files that are newer than the manifest, which is committed last."""
        written = self.modified(MANIFEST)
        times = {name: self.modified(name) for name in names}
        return [n for n, at in times.items() if at is None or written is None or at > written]

    @contextmanager
    def open_for_writing(self, overwrite: bool, resume: str | None, sync: bool) -> Iterator[Path]:
        """Yield a temporary directory that is uploaded at the end."""
        url = self.location
        with temporary_output(url.local_name, resume, sync) as directory:
            _check_replaceable(list_url(url, OutputError, cached=False), url, overwrite)
            yield directory
            _Upload(url, directory, overwrite).run()

    def check_not_a_source(self, files: Iterable[Path], references: Iterable[str]) -> None:
        """Refuse to replace a source below the URL."""
        for reference in references:
            if f"{reference.rstrip('/')}/".startswith(f"{self.location.redacted}/"):
                raise source_overlap_error(self.location, reference)


def _check_replaceable(listing: UrlListing | None, url: Url, overwrite: bool) -> None:
    if listing is None:
        return
    if listing.file is not None:
        raise not_a_directory_error(url)
    is_checkpoint = any(name in listing.files for name in CHECKPOINT_MARKERS)
    check_overwrite(url, is_checkpoint=is_checkpoint, overwrite=overwrite)


def commit_order(names: Iterable[str]) -> list[str]:
    """Sort files into the order to appear in: weights, metadata, indexes, configs, manifest."""

    def rank(path: str) -> tuple[int, str]:
        name = _base_name(path)
        if path == MANIFEST:
            return 4, path
        if name == CONFIG:
            return 3, path
        if name.endswith(INDEX_SUFFIX):
            return 2, path
        return int(name in auxiliary_files([name])), path

    return sorted(names, key=rank)


class _Upload:
    """One upload of a finished directory."""

    def __init__(self, url: Url, directory: Path, overwrite: bool) -> None:
        self.url, self.directory, self.overwrite = url, directory, overwrite
        self.system, self.path = filesystem(url, OutputError, cached=False)
        self.system.start_transaction()  # some protocols keep files uncommitted only then
        files = (path for path in directory.rglob("*") if path.is_file())
        self.names = commit_order(path.relative_to(directory).as_posix() for path in files)
        self.uncommitted: dict[str, Any] = {}
        """Files that have been sent, or are being sent, and are not yet visible."""
        self.committed: list[str] = []

    def run(self) -> None:
        """Send all files, then commit them."""
        try:
            sizes = {name: (self.directory / name).stat().st_size for name in self.names}
            transfer(f"Sending {self.url.name}", sizes, self._send)
            listing = list_url(self.url, OutputError, cached=False)
            _check_replaceable(listing, self.url, self.overwrite)  # it may have changed since
            stale = _stale_files(listing, self.names) if listing else []
            with translate_url_errors(OutputError, self.url, "cannot be written"):
                self._remove(name for name in stale if _base_name(name) in CHECKPOINT_MARKERS)
                self._commit()
                self._remove(name for name in stale if name not in self.names)
        except BaseException as error:
            self._roll_back(error)
            raise

    def _send(self, name: str, advance: Callable[[int], None]) -> None:
        """Send a file without committing it."""
        local, remote = self.directory / name, self._remote_path(name)
        block_size = max(_BLOCK_BYTES, local.stat().st_size // _MAX_PARTS + 1)
        with (
            translate_url_errors(OutputError, self.url / name, "cannot be written"),
            local.open("rb") as source,
        ):
            self.system.makedirs(remote.rpartition("/")[0], exist_ok=True)
            target = self.uncommitted[name] = self.system.open(
                remote, "wb", block_size=block_size, autocommit=False
            )
            if not _supports_commit(target):
                raise not_atomic_error(self.url)
            while data := source.read(_BLOCK_BYTES):
                target.write(data)
                advance(len(data))
            target.close()

    def _commit(self) -> None:
        """Make every file visible."""
        for name in self.names:
            self.committed.append(name)
            self.uncommitted[name].commit()
            del self.uncommitted[name]

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            self.system.rm_file(self._remote_path(name))

    def _roll_back(self, error: BaseException) -> None:
        """Remove new files; those that cannot be removed become problems of `error`."""
        for target in self.uncommitted.values():
            with suppress(Exception):
                target.discard()
            with suppress(Exception):
                target.closed = True  # else its finalizer would send the rest
        remaining = []
        for name in reversed(self.committed):  # the manifest first
            try:
                if self.system.exists(self._remote_path(name)):
                    self.system.rm_file(self._remote_path(name))
            except Exception:
                remaining.append(name)
        if remaining and isinstance(error, OutputError):
            what = "remains, part of an incomplete checkpoint"
            error.problems += tuple(Problem(what, f"{self.url}/{name}") for name in remaining)

    def _remote_path(self, name: str) -> str:
        return f"{self.path}/{name}"


def _base_name(path: str) -> str:
    return path.rpartition("/")[2]


def _supports_commit(file: Any) -> bool:
    """Return whether a file that is written stays invisible until it is committed."""
    from fsspec.spec import AbstractBufferedFile

    commit = getattr(type(file), "commit", None)
    return commit not in (None, AbstractBufferedFile.commit)  # the latter does nothing


def not_atomic_error(url: Url) -> OutputError:
    """Return the error for a location where an incomplete checkpoint would be visible."""
    return OutputError(
        f"{url}: cannot be written: its files would appear one by one during the upload",
        remedy="Let OUTPUT be hf://org/name, a complete repository."
        if url.protocol == "hf"
        else "Let OUTPUT be a local path, and copy it there.",
    )


def _stale_files(listing: UrlListing, names: Sequence[str]) -> list[str]:
    """Return the files of the old checkpoint to remove: markers, indexes, and those not replaced.

    Files that do not belong to a checkpoint stay.
    """
    stale = []
    for path in listing.files:
        name = _base_name(path)
        belongs = (
            name in (*CHECKPOINT_MARKERS, *WEIGHT_FILES)
            or bool(auxiliary_files([name]))
            or any(name.startswith(f"{Path(file).stem}-") for file in WEIGHT_FILES)
        )
        is_marker = name in CHECKPOINT_MARKERS or name.endswith(INDEX_SUFFIX)
        if is_marker or (belongs and path not in names):
            stale.append(path)
    return stale

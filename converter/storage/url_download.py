"""Downloading the files of a checkpoint at a URL into a temporary directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converter.cleanup import TemporaryDirectory
from converter.errors import CheckpointError, ConverterError, Problem
from converter.file_names import (
    JOINT_WEIGHTS,
    MANIFEST,
    SUBMODEL_DIRECTORIES,
    TF_INDEX_SUFFIX,
    auxiliary_files,
    is_index,
    name_problem,
    tf_checkpoint_prefix,
    weight_files,
)
from converter.safe_json import json_reader
from converter.storage.base import (
    MAX_METADATA_BYTES,
    CheckpointDirectory,
    RemoteDirectory,
    Source,
    WeightSelection,
    check_file_name,
    no_weights_error,
    shard_names,
)
from converter.storage.bounded_transfer import TransferLimit
from converter.storage.references import Url
from converter.storage.url import UrlListing, list_url, transfer, translate_url_errors
from converter.system import IS_WINDOWS

_MAX_AUXILIARY_BYTES = 256 << 20
"""Larger than any configuration or tokenizer; larger files in a bucket are not downloaded."""

_MAX_GROWTH = 1 << 20
"""Bytes beyond the listed size that are received, to report how many there are."""

_SPLIT_FILES = (JOINT_WEIGHTS, MANIFEST)
"""The files that `split` writes next to the submodels."""


@dataclass(frozen=True, kw_only=True)
class UrlSource(Source):
    """A checkpoint at a URL, downloaded into a temporary directory that `close` removes."""

    url: Url
    modified: float | None
    """When the newest file in use was written, in seconds since 1970, ``None`` if unknown."""

    @property
    def parent(self) -> str:
        """The URL of the parent directory."""
        return self.url.redacted.rpartition("/")[0]

    def describe(self) -> dict[str, str]:
        """Return the URL of the directory, without secrets."""
        return {"reference": self.url.redacted}

    def modified_since(self, timestamp: float, files: Iterable[Path]) -> bool:
        """Return whether a remote file was written after `timestamp`, or may have been."""
        return self.modified is None or self.modified > timestamp

    def rename(self, problem: Problem) -> Problem:
        """Return `problem` with the URL instead of the temporary path."""
        if problem.file is None:
            return problem
        return replace(problem, file=problem.file.replace(str(self.directory), self.url.redacted))

    def __exit__(self, *details: Any) -> None:
        self.close()
        error = details[1]
        if isinstance(error, ConverterError):
            error.message = error.message.replace(str(self.directory), self.url.redacted)
            if error.remedy:
                error.remedy = error.remedy.replace(str(self.directory), self.url.redacted)
            error.problems = tuple(self.rename(problem) for problem in error.problems)


def download_url(url: Url, weights: WeightSelection) -> UrlSource:
    """Download the files of the checkpoint at a URL into a temporary directory.

    The URL is that of a directory, a weight file, or the prefix of a TensorFlow checkpoint.
    """
    listing = list_url(url, CheckpointError) or _list_tf_checkpoint(url)
    if listing is None:
        raise CheckpointError(
            f"{url}: not found",
            remedy="Expected a directory with config.json and weights, or one weight file.",
        )
    with ExitStack() as stack:
        temporary = stack.enter_context(TemporaryDirectory())
        source = _Downloader(listing, temporary, weights).download(str(url))
        stack.pop_all()  # the source removes it
    return source


def _list_tf_checkpoint(url: Url) -> UrlListing | None:
    """Return the listing for the prefix of a TensorFlow checkpoint: ``DIR/bert_model.ckpt``."""
    parent, _, prefix = url.text.rstrip("/").rpartition("/")
    listing = list_url(Url(parent), CheckpointError) if parent.rpartition("://")[2] else None
    if listing is None or prefix + TF_INDEX_SUFFIX not in listing.files:
        return None
    return replace(listing, file=prefix + TF_INDEX_SUFFIX)


@dataclass(frozen=True)
class _Downloader:
    listing: UrlListing
    temporary: TemporaryDirectory
    weights: WeightSelection

    @property
    def directory(self) -> Path:
        """The directory for the files of the checkpoint."""
        return self.temporary.path / self.listing.url.local_name

    def download(self, reference: str) -> UrlSource:
        """Download the selected files of the source that is called `reference`."""
        headers = self.weights == "headers"
        file = self.listing.file
        weights = self._weight_files() if file is None else self._files_of(file)
        if file and (index := tf_checkpoint_prefix(file) + TF_INDEX_SUFFIX) in self.listing.files:
            file = index
        auxiliary = [
            name
            for name in self._select(auxiliary_files)
            if self.listing.size(name) <= _MAX_AUXILIARY_BYTES
        ]
        now = [name for name in weights if is_index(name) or not headers]
        names = list(dict.fromkeys((*auxiliary, *now)))
        self.fetch(names, self.directory)
        indexes = [name for name in names if is_index(name)]
        shards = self._shards(indexes) if weights else []
        if not headers:
            self.fetch([name for name in shards if name not in names], self.directory)
        self._fetch_split_files()
        times = [self.listing.modified(name) for name in {*names, *weights, *shards}]
        known_times = [time for time in times if time is not None]
        return UrlSource(
            reference=reference,
            folder=self._remote_directory() if headers else CheckpointDirectory(self.directory),
            file=self.directory / file if file else None,
            url=self.listing.url,
            modified=max(known_times, default=None) if len(known_times) == len(times) else None,
            temporary=self.temporary,
        )

    def fetch(self, names: list[str], directory: Path) -> None:
        """Download files, if the disk is large enough."""
        for name in names:
            check_file_name(name, self.listing.url)
        sizes = {name: self.listing.size(name) for name in names}
        total, free = sum(sizes.values()), shutil.disk_usage(self.temporary.path).free
        if total > free:
            raise CheckpointError(
                f"{self.listing.url}: the download takes {total:,} bytes, and "
                f"{self.temporary.path.parent} has {free:,} free",
                remedy="Free disk space, or set TMPDIR to a directory on a larger disk.",
            )
        transfer(
            f"Fetching {self.listing.url.name}",
            sizes,
            lambda name, advance: self._fetch_file(name, directory / name, advance),
        )

    def _fetch_file(self, name: str, path: Path, advance: Callable[[int], None]) -> None:
        from fsspec.callbacks import Callback

        limit = TransferLimit(self.listing.size(name) + _MAX_GROWTH)

        class Progress(Callback):  # type: ignore[misc]  # fsspec has no types
            def relative_update(self, inc: int = 1) -> None:
                limit.add(inc)
                advance(inc)

        if IS_WINDOWS and any(map(name_problem, name.split("/"))):
            raise CheckpointError(f"{self.listing.url}: {name!r} is not a file name in it")
        url = self.listing.url / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with translate_url_errors(CheckpointError, url, "cannot be downloaded"):
            self.listing.filesystem.get_file(
                self.listing.remote_path(name), str(path), callback=Progress()
            )
        received, expected = path.stat().st_size, self.listing.size(name)
        if received != expected:
            raise CheckpointError(
                f"{url}: had {expected:,} bytes when it was listed, and {received:,} were received",
                remedy="Run again when no other program writes to it.",
            )

    def _weight_files(self) -> list[str]:
        """Return the weight files and indexes to download from a directory."""
        if self.weights == "none":
            return []
        every = self.weights == "all"
        names = self._select(lambda names: weight_files(names, all_formats=every))
        names += [JOINT_WEIGHTS] if every and JOINT_WEIGHTS in self.listing.files else []
        if not names:
            raise no_weights_error(self.listing.url, self.listing.files, self._read_json)
        return names

    def _read_json(self, name: str) -> Any:
        """Return the content of a small JSON file, ``None`` if it cannot be read."""
        if self.listing.size(name) > MAX_METADATA_BYTES:
            return None
        self.fetch([name], self.directory)
        return json_reader(self.directory)(name)

    def _select(self, choose: Callable[[list[str]], list[str]]) -> list[str]:
        """Return the files that `choose` selects, with ``all`` weights also in submodels."""
        directories = ("", *(f"{name}/" for name in SUBMODEL_DIRECTORIES))
        selected = []
        for prefix in directories if self.weights == "all" else ("",):
            names = [name for name in self.listing.files if name.startswith(prefix)]
            selected += [prefix + n for n in choose([n.removeprefix(prefix) for n in names])]
        return selected

    def _files_of(self, file: str) -> list[str]:
        """Return all files of the TensorFlow checkpoint that `file` belongs to, or `file` alone."""
        prefix = tf_checkpoint_prefix(file)
        if prefix == file:
            return [file]
        return [name for name in self.listing.files if tf_checkpoint_prefix(name) == prefix]

    def _shards(self, indexes: Iterable[str]) -> list[str]:
        """Return the files that indexes name; opening reports those that are missing."""
        paths = (
            "".join((*index.rpartition("/")[:2], name))
            for index in indexes
            for name in shard_names(self.directory / index)
        )
        return list(dict.fromkeys(path for path in paths if path in self.listing.files))

    def _fetch_split_files(self) -> None:
        """Download what `split` wrote next to the submodels, if this is one of them."""
        parent, _, name = self.listing.url.text.rstrip("/").rpartition("/")
        if name in SUBMODEL_DIRECTORIES and self.weights in ("preferred", "headers"):
            siblings = list_url(Url(parent), CheckpointError)
            if siblings and all(each in siblings.files for each in _SPLIT_FILES):
                parent_files = _Downloader(siblings, self.temporary, "preferred")
                parent_files.fetch(list(_SPLIT_FILES), self.temporary.path)

    def _remote_directory(self) -> RemoteDirectory:
        sizes = {name: self.listing.size(name) for name in self.listing.files}
        return RemoteDirectory(self.directory, sizes, lambda n: _UrlRangeSource(self.listing, n))


class _UrlRangeSource:
    """Byte ranges of a remote file; see `converter.formats.range_reader.RangeSource`."""

    def __init__(self, listing: UrlListing, name: str) -> None:
        self.size = listing.size(name)
        self._listing, self._name = listing, name

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return `nbytes` bytes from `offset`."""
        return self._listing.read_range(self._name, offset, nbytes)

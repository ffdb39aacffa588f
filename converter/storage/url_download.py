"""A source elsewhere as a directory of this machine, holding the files that are needed."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from converter.errors import CheckpointError, ConverterError, Problem
from converter.file_names import (
    INDEX_SUFFIX,
    JOINT_WEIGHTS,
    MANIFEST,
    WEIGHT_FILES,
    auxiliary_files,
    weight_files,
)
from converter.formats.directory import CheckpointDirectory, LocalDirectory, RemoteDirectory
from converter.safe_json import read_json_object
from converter.storage.url import Url, UrlListing, listing, translate_url_errors


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal; gives what to call with more bytes."""
    from huggingface_hub import utils

    tqdm: Any = utils.tqdm  # type: ignore[attr-defined]
    lock = threading.Lock()
    with tqdm(
        total=total, desc=title, unit="B", unit_scale=True, leave=False, disable=None
    ) as shown:

        def advance(nbytes: int) -> None:
            with lock:
                shown.update(nbytes)

        yield advance


_AT_ONCE = 4
"""Files that are fetched at the same time."""

_MAX_SMALL = 256 << 20
"""Larger than any configuration or tokenizer; what a bucket holds besides is left alone."""

_SUBMODELS = ("encoder/", "decoder/")
"""The directories that `split` makes."""

_JOINT = (JOINT_WEIGHTS, MANIFEST)
"""What it leaves beside them."""

_DATA = re.compile(r"\.(?:index|data-\d{5}-of-\d{5})$")


@dataclass(frozen=True, slots=True)
class UrlDownload:
    """What was fetched. `close` removes it again."""

    url: Url
    directory: Path
    folder: CheckpointDirectory
    """The same with the files that were not fetched, which are read a part at a time."""
    file: Path | None
    """The weight file in it, if the URL was that of one."""
    modified: float | None
    """When the last of the files that were used was written, in seconds since 1970; ``None`` where
    nobody knows."""
    _home: Path = field(repr=False)

    def close(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """Remove the files; an error is told with the URL, not with the place where they lay."""
        shutil.rmtree(self._home, ignore_errors=True)
        if isinstance(error, ConverterError):
            error.message = error.message.replace(str(self.directory), self.url.bare)
            error.problems = tuple(self.named(problem) for problem in error.problems)

    def named(self, problem: Problem) -> Problem:
        """A problem with the URL instead of the place where the file lay on this machine."""
        if problem.file is None:
            return problem
        return replace(problem, file=problem.file.replace(str(self.directory), self.url.bare))


def download(url: Url, weights: str) -> UrlDownload:
    """Fetch the files of the checkpoint at a URL into a temporary directory.

    Args:
        url: of a directory or a weight file.
        weights: which weight files to fetch beside the small ones: those of ``one`` format, of
            ``all``, or ``none``; or ``headers``, to read those of one format from afar.

    Raises:
        CheckpointError: if there is none, if it cannot be read, or if the disk is too small.
        UnsupportedError: if the library of the protocol is not installed.

    """
    found = listing(url, CheckpointError) or _bundle(url)
    if found is None:
        raise CheckpointError(
            f"{url}: there is nothing",
            remedy="Expected a directory with config.json and weights, or one weight file.",
        )
    home = Path(tempfile.mkdtemp(prefix="converter-"))
    try:
        return _Downloader(found, home, weights).staged()
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise


def _bundle(url: Url) -> UrlListing | None:
    """The listing for what the files of a TensorFlow bundle begin with: ``DIR/bert_model.ckpt``."""
    parent, _, stem = url.text.rstrip("/").rpartition("/")
    around = listing(Url(parent), CheckpointError) if parent.rpartition("://")[2] else None
    if around is None or f"{stem}.index" not in around.files:
        return None
    return replace(around, file=f"{stem}.index")


@dataclass
class _Downloader:
    listed: UrlListing
    home: Path
    weights: str

    @property
    def directory(self) -> Path:
        """Where the files go."""
        return self.home / self.listed.url.local_name

    def staged(self) -> UrlDownload:
        headers = self.weights == "headers"
        names = list(self.listed.files)
        file = self.listed.file
        if file is not None:
            begun = self.parts(file)
        else:
            begun = self.initial_weight_files(names)
            if not begun and self.weights != "none":
                raise CheckpointError(
                    f"{self.listed.url}: holds no weight file",
                    remedy="Expected one of " + ", ".join(WEIGHT_FILES) + " (or its index), or a "
                    "TensorFlow checkpoint.",
                )
        directory = self.directory
        now = [name for name in begun if name.endswith(INDEX_SUFFIX) or not headers]
        small = [name for name in auxiliary_files(names) if self.listed.size(name) <= _MAX_SMALL]
        if file is None and self.weights == "all":
            small = [
                each for lead in ("", *_SUBMODELS) for each in self.below(lead, auxiliary_files)
            ]
        chosen = list(dict.fromkeys([*small, *now]))
        self.fetch(chosen, directory)
        shards = (
            self.shards(name for name in chosen if name.endswith(INDEX_SUFFIX)) if begun else []
        )
        if not headers:
            self.fetch([name for name in shards if name not in chosen], directory)
        self.joint(directory)
        times = [self.listed.modified(name) for name in {*chosen, *begun, *shards}]
        return UrlDownload(
            self.listed.url,
            directory,
            self.folder(directory) if headers else LocalDirectory(directory),
            directory / file if file else None,
            None if None in times else max((time for time in times if time), default=None),
            self.home,
        )

    def initial_weight_files(self, names: list[str]) -> list[str]:
        """The weight files to begin with, see `weight_files`."""
        if self.weights == "none":
            return []
        every = self.weights == "all"
        found = weight_files(names, all_formats=every)
        if every:
            for lead in _SUBMODELS:
                found += self.below(lead, lambda below: weight_files(below, all_formats=True))
            found += [name for name in _JOINT[:1] if name in names]
        return found

    def below(self, lead: str, choice: Any) -> list[str]:
        """What `choice` takes of the files of a directory."""
        names = [name.removeprefix(lead) for name in self.listed.files if name.startswith(lead)]
        return [lead + name for name in choice(names)]

    def parts(self, file: str) -> list[str]:
        """The files that a weight file consists of."""
        stem = _DATA.sub("", file)
        if stem == file:
            return [file]
        return [name for name in self.listed.files if _DATA.sub("", name) == stem]

    def shards(self, indexes: Iterable[str]) -> list[str]:
        """The files that indexes name; what else they name is told on opening."""
        found: dict[str, None] = {}
        for index in indexes:
            lead = index.rpartition("/")[0]
            weight_map = read_json_object(self.directory / index).get("weight_map")
            for name in weight_map.values() if isinstance(weight_map, dict) else ():
                whole = f"{lead}/{name}" if lead else str(name)
                if whole in self.listed.files:
                    found[whole] = None
        return list(found)

    def joint(self, directory: Path) -> None:
        """Fetch what `split` left beside the halves, if this is one of them."""
        parent, _, name = self.listed.url.text.rstrip("/").rpartition("/")
        if f"{name}/" in _SUBMODELS and self.weights in ("one", "headers"):
            around = listing(Url(parent), CheckpointError)
            if around and all(each in around.files for each in _JOINT):
                _Downloader(around, self.home, "one").fetch(list(_JOINT), self.home)

    def folder(self, directory: Path) -> RemoteDirectory:
        sizes = {name: self.listed.size(name) for name in self.listed.files if "/" not in name}
        return RemoteDirectory(directory, sizes, lambda name: _Ranges(self.listed, name))

    def fetch(self, names: list[str], directory: Path) -> None:
        """Fetch files.

        Raises:
            CheckpointError: if the disk is too small, or they cannot be had.

        """
        total = sum(self.listed.size(name) for name in names)
        free = shutil.disk_usage(self.home).free
        if total > free:
            raise CheckpointError(
                f"{self.listed.url}: takes {total:,} bytes on its way, and {self.home.parent} has "
                f"{free:,} free",
                remedy="Free some, or set TMPDIR to a directory of a larger disk.",
            )
        stopped = threading.Event()
        with bar(f"Fetching {self.listed.url.name}", total) as advance:

            def get(name: str) -> None:
                self.get(name, directory / name, advance, stopped)

            with ThreadPoolExecutor(_AT_ONCE) as threads:
                try:
                    list(threads.map(get, names))
                except BaseException:
                    stopped.set()
                    raise

    def get(self, name: str, path: Path, advance: Any, stopped: threading.Event) -> None:
        """Fetch one file."""
        from fsspec.callbacks import Callback

        class Told(Callback):  # type: ignore[misc]  # fsspec has no types
            def relative_update(self, inc: int = 1) -> None:
                if stopped.is_set():
                    raise InterruptedError("given up")
                advance(inc)

        if stopped.is_set():
            return
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise CheckpointError(f"{self.listed.url}: {name!r} is no name of a file in it")
        url = self.listed.url / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with translate_url_errors(CheckpointError, url, "cannot be fetched"):
            self.listed.filesystem.get_file(self.listed.at(name), str(path), callback=Told())
        found, listed = path.stat().st_size, self.listed.size(name)
        if found != listed:
            raise CheckpointError(
                f"{url}: had {listed:,} bytes when it was listed, and {found:,} came",
                remedy="Run again once nothing writes to it any more.",
            )


class _Ranges:
    """The bytes of a file elsewhere; see `converter.formats.range_reader.Ranges`."""

    def __init__(self, listed: UrlListing, name: str) -> None:
        self.size = listed.size(name)
        self._listed, self._name = listed, name

    def read(self, offset: int, nbytes: int) -> bytes:
        """The bytes from `offset`."""
        with translate_url_errors(CheckpointError, self._listed.url / self._name, "cannot be read"):
            at = self._listed.at(self._name)
            return bytes(self._listed.filesystem.cat_file(at, start=offset, end=offset + nbytes))

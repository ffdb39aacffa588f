"""Weight files that are read while the Hub's client downloads them into its cache.

Headers are read by range requests, so that everything is planned before a download begins. Values
are read from the file that the client is writing, as far as it has arrived. Only the client writes
to the cache.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from os.path import realpath
from pathlib import Path
from typing import Any

from converter.cleanup import Stopped, thread_pool
from converter.errors import ConverterError
from converter.formats.file_handle import FileHandle, LocalFile
from converter.formats.range_reader import RangedFile, RangeSource
from converter.system import open_files

_INTERVAL = 0.02
"""Seconds between two looks at how much has arrived."""
THREADS = 4
"""Concurrent downloads of a repository."""


class Download:
    """A file that the client downloads to `path`, of which what has arrived can be read.

    Args:
        path: where it is in the cache at the end.
        size: its bytes.
        fetch: downloads it; ends early, if it can, when the event is set.
        partial: returns the directory and the start of the name of the file that the client writes
            in the meantime, from the start to the end, or ``None`` if it writes in another order.
            Then, and where the system does not list open files, nothing is read before the end.

    """

    def __init__(
        self,
        path: Path,
        size: int,
        fetch: Callable[[threading.Event], object],
        partial: Callable[[], tuple[Path, str] | None],
    ) -> None:
        self.path, self.size = path, size
        self.has_begun = False
        self._fetch, self._find_partial = fetch, partial
        self._partial: tuple[str, str] | None = None
        self._done, self._stop = threading.Event(), threading.Event()
        self._error: BaseException | None = None

    def begin(self, stop: threading.Event) -> None:
        """Let reads wait for the download from now on; they raise Stopped once `stop` is set."""
        if partial := self._find_partial():
            self._partial = realpath(partial[0]), partial[1]
        self._stop = stop
        self.has_begun = True

    def run(self) -> None:
        """Download it; raise CheckpointError if that fails."""
        try:
            self._fetch(self._stop)
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._done.set()

    def is_stored_next_to(self, directory: Path) -> bool:
        """Return whether the cache is on the same disk as `directory`."""
        return self.path.parent.stat().st_dev == directory.stat().st_dev

    def arrived(self) -> int:
        """Return how many bytes from its start can be read without waiting."""
        if self._is_complete():
            return self.size
        with suppress(OSError):
            return max((path.stat().st_size for path in self._partial_files()), default=0)
        return 0

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset`, once that has arrived.

        Raise FormatError if the file ends first; CheckpointError if the download has failed;
        Stopped.
        """
        while not self._is_complete():
            if self._stop.is_set():
                raise Stopped
            for path in self._partial_files():
                # It may be renamed meanwhile, and the client may begin again.
                with suppress(ConverterError), closing(LocalFile(path)) as file:
                    if offset + len(buffer) <= file.size:
                        return file.fill(buffer, offset)
            self._done.wait(_INTERVAL)
        if self._error is not None:
            raise self._error
        with closing(LocalFile(self.path)) as file:
            file.fill(buffer, offset)
        return None

    def _is_complete(self) -> bool:
        """Return whether the download has ended, or another one of the same file has."""
        return self._done.is_set() or self.path.is_file()

    def _partial_files(self) -> list[Path]:
        """Return the file that the client is writing, if it is known."""
        if self._partial is None:
            return []
        directory, name = self._partial
        return [
            path
            for path in open_files(directory)
            if path.name.startswith(name) and path.suffix == ".incomplete"
        ]


class StreamedFile(RangedFile):
    """A remote file that is read by ranges, and as it is downloaded once that has begun."""

    def __init__(
        self,
        path: Path,
        ranges: RangeSource,
        open_sibling: Callable[[str], FileHandle | None],
        download: Download,
    ) -> None:
        super().__init__(path, ranges, open_sibling)
        self._download = download

    def _fill(self, buffer: memoryview, offset: int) -> None:
        if self._download.has_begun:
            self._download.read_into(buffer, offset)
        else:
            super()._fill(buffer, offset)


@contextmanager
def downloading(
    downloads: Collection[Download], stop: threading.Event, quiet: bool
) -> Iterator[None]:
    """Download files while the block runs, and until they are complete.

    If the block or a download fails, set `stop`, which ends the downloads at the next bytes that
    arrive; they are not waited for then. If `quiet`, the client shows no bars. Raise the error of a
    download.
    """
    for download in downloads:
        download.begin(stop)
    try:
        with _no_bars() if quiet else nullcontext(), thread_pool(THREADS, stop=None) as threads:
            futures = [threads.submit(download.run) for download in downloads]
            yield
            for future in futures:
                future.result()
    except BaseException:
        stop.set()
        raise


@contextmanager
def _no_bars() -> Iterator[None]:
    """Let the client show no progress bars in the block."""
    import huggingface_hub

    utils: Any = huggingface_hub.utils
    shown = not utils.are_progress_bars_disabled()
    if shown:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            utils.enable_progress_bars()

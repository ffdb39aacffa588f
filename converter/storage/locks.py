"""Lock files, and temporary directories, which the next run removes if theirs was killed."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import weakref
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Self

from converter.interrupts import complete
from converter.system import is_own, lock, open_for_update, remove_lock


class LockFile:
    """A file that is locked while it is in use, and removed afterwards.

    The system releases the lock when the process ends.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._held = False

    def acquire(self) -> bool:
        """Create and lock the file, and return whether the file system has locks.

        The parents are created. Raise BlockingIOError if another run holds the lock; OSError if
        the file cannot be created.
        """
        while True:
            # Here, since another run that created them may just have removed them.
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = FileIO(open_for_update(self._path, create=True), "r+")
            locked = lock(self._file.fileno())
            if not locked or _is_same(self._file, self._path):
                self._held = True
                return locked
            self._file.close()  # its last holder removed it before we got the lock: try again

    def release(self) -> None:
        """Remove the file unless another run holds the lock."""
        file = self._file
        with suppress(OSError):
            if file is None:  # an interrupt may come between the opening and the assignment
                file = FileIO(open_for_update(self._path), "r+") if is_own(self._path) else None
            if file is None or file.closed:
                return
            if not self._held:
                lock(file.fileno())
            if _is_same(file, self._path):
                remove_lock(file, self._path)
        if file is not None:
            file.close()


def _is_same(file: FileIO, path: Path) -> bool:
    """Return whether `path` is still the open `file`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def remove(path: Path) -> None:
    """Remove a directory or a file, ignoring errors."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


_NAME = "converter-{}"
_LOCK_NAME = re.compile(r"converter-[0-9a-f]{16}\.lock")


class TemporaryDirectory:
    """A directory below ``TMPDIR`` that is removed by `close`, at the latest by the next run.

    Next to it is a lock file that is locked as long as the process lives. Only the process that
    created the directory removes it, and not one that was forked. Raise OSError if it cannot be
    created.
    """

    def __init__(self) -> None:
        parent = Path(tempfile.gettempdir())
        _remove_leftovers(parent)
        self.path = parent / _NAME.format(secrets.token_hex(8))
        lock_file = LockFile(parent / f"{self.path.name}.lock")
        self._remove = partial(_remove, self.path, lock_file, os.getpid())
        self._finalizer = weakref.finalize(self, complete, self._remove)
        lock_file.acquire()
        self.path.mkdir(mode=0o700)

    def close(self) -> None:
        """Remove it."""
        complete(self._remove)
        self._finalizer.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _remove(directory: Path, lock_file: LockFile, pid: int) -> None:
    """Remove a temporary directory and its lock file."""
    if os.getpid() == pid:
        remove(directory)
        lock_file.release()


def _remove_leftovers(parent: Path) -> None:
    """Remove the temporary directories of runs that were killed, which their locks prove."""
    with suppress(OSError):
        for path in [each for each in parent.iterdir() if _LOCK_NAME.fullmatch(each.name)]:
            _remove_leftover(path)


def _remove_leftover(path: Path) -> None:
    """Remove the temporary directory of a lock file, unless its run is alive."""
    with suppress(OSError):
        if is_own(path) and path.is_file():
            with FileIO(open_for_update(path), "r+") as file:
                if lock(file.fileno()) and _is_same(file, path):
                    remove(path.with_suffix(""))
                    remove_lock(file, path)

"""The calls that differ between operating systems, each with a portable fallback.

Linux has all of them, macOS most, Windows few; the bytes written are the same everywhere. What a
system has is looked up at each call, so that tests can take calls away. No other module may use
such calls (`tests/test_architecture.py`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from io import FileIO
from pathlib import Path
from typing import Any


def _module(name: str) -> Any:
    """Return a module that only some systems have, ``None`` if this one does not."""
    try:
        return import_module(name)
    except ImportError:
        return None


IS_WINDOWS = os.name == "nt"
IGNORES_CASE = sys.platform in ("win32", "darwin")
"""Whether the usual file systems take names that differ only in case for the same."""

_fcntl, _msvcrt = _module("fcntl"), _module("msvcrt")

ENDING_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if hasattr(signal, name)
)
"""The signals that ask a process to end: Ctrl-C, ``kill``, a closed terminal or, on Windows,
Ctrl-Break."""


def is_path(value: str | Path) -> bool:
    """Return whether the system can represent a path; no null character or unpaired surrogate."""
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _flags(*names: str) -> int:
    """Return flags of ``os.open``, and those of all files; a flag that is not available is 0.

    Windows would translate line ends without O_BINARY.
    """
    flags = 0
    for name in ("O_CLOEXEC", "O_BINARY", "O_NOINHERIT", *names):
        flags |= getattr(os, name, 0)
    return flags


def open_for_reading(path: str | Path) -> int:
    """Return a descriptor of the regular file at `path`, without waiting for a FIFO's writer.

    Raise OSError if it is not a regular file or cannot be opened; ValueError if the path holds a
    null byte or a surrogate.
    """
    if not hasattr(os, "O_NONBLOCK"):
        _require_regular(os.stat(path))  # noqa: PTH116 - `path` may be text
    fd = os.open(path, _flags("O_RDONLY", "O_NONBLOCK", "O_NOCTTY"))
    try:
        _require_regular(os.fstat(fd))
    except OSError:
        os.close(fd)
        raise
    return fd


def _require_regular(status: os.stat_result) -> None:
    """Raise OSError if `status` is not that of a regular file."""
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def open_for_update(path: Path, *, create: bool = False, append: bool = False) -> int:
    """Return a descriptor for reading and writing; with `append` every write is at the end.

    With `create` a missing file is created, and a link is not followed: other users could put one
    there. Raise OSError if it cannot be opened.
    """
    flags = _flags("O_RDWR", *(["O_APPEND"] if append else []))
    if not create:
        return os.open(path, flags)
    if path.is_symlink():
        raise OSError(errno.ELOOP, "is a symbolic link", str(path))
    return os.open(path, flags | _flags("O_CREAT", "O_NOFOLLOW"), 0o644)


_SEEK_LOCKS = tuple(threading.Lock() for _ in range(16))
"""Held while the position of a descriptor is set and used."""


def read_at(fd: int, buffer: memoryview, offset: int) -> int:
    """Read into `buffer` from `offset` of a file; return the bytes read, 0 at its end.

    Threads may share the descriptor.
    """
    if hasattr(os, "preadv"):
        return os.preadv(fd, [buffer], offset)
    with _SEEK_LOCKS[fd % len(_SEEK_LOCKS)]:
        os.lseek(fd, offset, os.SEEK_SET)
        return FileIO(fd, "rb", closefd=False).readinto(buffer) or 0


def write_at(fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
    """Write `data` at `offset` of a file; return the bytes written. Threads may share `fd`."""
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, data, offset)
    with _SEEK_LOCKS[fd % len(_SEEK_LOCKS)]:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


_AHEAD_AT_ONCE = 512 << 10
"""Bytes; Linux reads no more for each call than the disk takes in one transfer."""


def read_ahead(fd: int, offset: int, nbytes: int) -> None:
    """Let the system read a part of a file into memory while the program goes on, if it can."""
    if hasattr(os, "posix_fadvise"):
        end = offset + nbytes
        with suppress(OSError):
            for start in range(offset, end, _AHEAD_AT_ONCE):
                length = min(_AHEAD_AT_ONCE, end - start)
                os.posix_fadvise(fd, start, length, os.POSIX_FADV_WILLNEED)


def set_time(path: Path, nanoseconds: int) -> None:
    """Set the time of the last change of a file, since 1970, where the file system allows that."""
    with suppress(OSError):
        os.utime(path, ns=(nanoseconds, nanoseconds))


def _system_library() -> Any:
    """Return the C library, ``None`` if this process has none of POSIX."""
    try:
        return ctypes.CDLL(None, use_errno=True)
    except (OSError, TypeError):  # Windows: TypeError
        return None


def reserve_space(fd: int) -> None:
    """Allocate the disk space of a complete file, where system and file system support that.

    A full disk shows before the work begins, and writing to ext4 takes about half as long. Not
    ``os.posix_fallocate``: on file systems without support, that writes to every block. Raise
    OSError if there is too little space.
    """
    fallocate = getattr(_system_library(), "fallocate", None)
    nbytes = os.fstat(fd).st_size
    if fallocate is None or not nbytes:
        return
    arguments = ctypes.c_int(fd), ctypes.c_int(0), ctypes.c_int64(0), ctypes.c_int64(nbytes)
    while fallocate(*arguments) != 0:
        number = ctypes.get_errno()
        if number in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise OSError(number, os.strerror(number))
        if number != errno.EINTR:
            return


def allocated_bytes(status: os.stat_result) -> int:
    """Return the bytes that a file takes on the disk; its size, where the system does not say."""
    blocks: int | None = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else 512 * blocks


_NO_LOCKS = frozenset(
    getattr(errno, name)
    for name in ("ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL")
    if hasattr(errno, name)
)
"""Errors of file systems without locks, where concurrent runs are not detected."""


def lock(fd: int) -> bool:
    """Lock an open file until it is closed or the process ends; return false without locks.

    Raise BlockingIOError if another run holds the lock.
    """
    try:
        if _fcntl is not None:
            _fcntl.flock(fd, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
        elif _msvcrt is not None:
            os.lseek(fd, 0, os.SEEK_SET)
            _msvcrt.locking(fd, _msvcrt.LK_NBLCK, 1)
        else:
            return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise BlockingIOError(error.errno, error.strerror) from error
    return True


def remove_lock(file: FileIO, path: Path) -> None:
    """Close and remove the locked `file` at `path`, ignoring errors of the removal."""
    if _fcntl is None:  # Windows removes no file that is open, be it by the next run
        file.close()
    with suppress(OSError):
        path.unlink()
    file.close()  # last: the next run gets the lock of a removed file, and notices


def is_own(path: Path) -> bool:
    """Return whether `path` is ours and not a link, which other users could create."""
    status = path.lstat()
    is_junction = bool(getattr(status, "st_reparse_tag", None))  # of Windows
    if stat.S_ISLNK(status.st_mode) or is_junction:
        return False
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def has_hard_links(status: os.stat_result) -> bool:
    """Return whether a file has another name, which other users could create."""
    return getattr(status, "st_nlink", 1) > 1


_AT_FDCWD = -100
_SWAP = 2
"""RENAME_EXCHANGE of ``renameat2`` and RENAME_SWAP of ``renamex_np``."""


def exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step; return whether system and file system could.

    Linux since 3.15 (``renameat2``), macOS since 10.12 (``renamex_np``).
    """
    library, names = _system_library(), (os.fsencode(first), os.fsencode(second))
    if swap := getattr(library, "renameat2", None):
        return bool(swap(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _SWAP) == 0)
    if swap := getattr(library, "renamex_np", None):
        return bool(swap(*names, _SWAP) == 0)
    return False


_RENAME_ATTEMPTS = 8


def rename(source: Path, target: Path) -> None:
    """Rename a file or directory to a name that is free.

    Windows refuses while another program, such as a virus scanner, has a file of it open; so try
    for about a second there.
    """
    for attempt in range(_RENAME_ATTEMPTS):
        try:
            source.rename(target)
            return
        except PermissionError:
            if _msvcrt is None or attempt == _RENAME_ATTEMPTS - 1:
                raise
            time.sleep(0.01 * 2**attempt)


def sync_file(path: Path) -> None:
    """Write the content of a file through to the disk; raise OSError if that fails."""
    fd = os.open(path, _flags("O_RDWR"))  # Windows refuses for a file opened for reading
    try:
        _sync(fd)
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Write the names in a directory through to the disk; raise OSError if that fails.

    Windows cannot: it opens no directories, and NTFS writes names in order by itself.
    """
    if not hasattr(os, "O_DIRECTORY"):
        return
    fd = os.open(path, _flags("O_RDONLY", "O_DIRECTORY"))
    try:
        _sync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of file systems that cannot sync a directory
            raise
    finally:
        os.close(fd)


def _sync(fd: int) -> None:
    """Write an open file through to the disk: on macOS also through the disk's own cache."""
    if hasattr(_fcntl, "F_FULLFSYNC"):
        with suppress(OSError):  # not supported by network file systems
            _fcntl.fcntl(fd, _fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def config_directory() -> Path | None:
    """Return where programs keep a user's settings; ``None`` if the user has no home directory.

    That is ``$XDG_CONFIG_HOME`` where it is set; ``%APPDATA%`` on Windows, ``~/Library/Application
    Support`` on macOS and ``~/.config`` elsewhere.
    """
    variables = ("XDG_CONFIG_HOME", *(["APPDATA"] if IS_WINDOWS else []))
    for value in map(os.environ.get, variables):
        if value and os.path.isabs(value):  # noqa: PTH117 - relative ones are to be ignored
            return Path(value)
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / ("Library/Application Support" if sys.platform == "darwin" else ".config")


def call_after_fork(function: Callable[[], object]) -> None:
    """Let every process that is forked from this one call `function` first."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def memory_size() -> int | None:
    """Return the bytes of memory of the machine; ``None`` if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def open_files(directory: str) -> list[Path]:
    """Return the files in `directory`, a real path, that this process has open, on Linux."""
    paths = set()
    with suppress(OSError):
        for descriptor in os.listdir("/proc/self/fd"):  # noqa: PTH208 - faster than Path.iterdir
            with suppress(OSError):  # that of this listing
                path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
                if os.path.dirname(path) == directory:  # noqa: PTH120
                    paths.add(path)
    return [Path(path) for path in sorted(paths)]


def filesystem_type(path: Path) -> str | None:
    """Return the type of the file system of an absolute path, such as ``ext4``, on Linux."""
    best: tuple[int, str | None] = (-1, None)
    try:
        mounts = Path("/proc/self/mounts").read_text("utf-8", "replace")
    except OSError:
        return None
    for line in mounts.splitlines():
        _, place, kind, *_ = line.split(" ")
        place = place.replace("\\040", " ")
        if path.is_relative_to(place) and len(place) >= best[0]:
            best = len(place), kind
    return best[1]


def terminal_width(stream: Any) -> int | None:
    """Return the columns of a terminal; ``None`` if `stream` is not one."""
    if stream is None or not stream.isatty():
        return None
    columns = os.environ.get("COLUMNS", "")
    try:
        return int(columns or 0) or os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80

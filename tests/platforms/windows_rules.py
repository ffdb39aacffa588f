"""Rules of Windows for a process on Linux: a pytest plugin, imported before converter.

``pytest -p tests.platforms.windows_rules tests/storage/test_atomic_directory.py`` runs tests so.
The calls of POSIX are missing, ``fcntl`` cannot be imported, ``msvcrt`` has locks; an open file can
be neither renamed nor removed, nor a directory with one; a rename replaces nothing; directories
cannot be opened; names must be possible on Windows; descriptors are opened with O_BINARY, without
which Windows translates line ends; and only writable ones can be synced.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import getpass
import importlib
import multiprocessing.connection
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

# These decide when they are imported on what the system has.
import h5py
import huggingface_hub
import numpy as np

with suppress(ImportError):  # which has a plugin of pytest, and comes with Jupyter and MkDocs
    importlib.import_module("platformdirs.unix")
IMPORTED = (
    *(asyncio, getpass, h5py, huggingface_hub, multiprocessing.connection, np, subprocess),
    tempfile,
)

MISSING = {
    os: (
        *("copy_file_range", "geteuid", "getuid", "mkfifo", "posix_fadvise", "posix_fallocate"),
        *("pread", "preadv", "pwrite", "pwritev", "sched_getaffinity", "sendfile", "O_CLOEXEC"),
        *("O_DIRECTORY", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK"),
    ),
    signal: ("SIGHUP", "SIGUSR1", "SIGUSR2"),
}
"""Module → what it lacks on Windows, of what a converter might use."""

O_BINARY = 1 << 30


def busy(path: Any) -> bool:
    """Return whether this process has a file at or below `path` open."""
    place = os.path.realpath(path)
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if target == place or target.startswith(f"{place}/"):
            return True
    return False


def calling() -> str:
    """Return the name of the module that calls the caller of this function."""
    return str(sys._getframe(2).f_globals["__name__"])


def guarded(call: Callable[..., Any], *, replaces: bool = True) -> Callable[..., Any]:
    """Return a function that renames or removes as Windows allows."""

    def guard(path: Any, *targets: Any, **options: Any) -> Any:
        assert options.get("dir_fd") is None
        for each in (path, *targets):
            if busy(each) and calling() != "tempfile":  # which has other ways on Windows
                raise PermissionError(errno.EACCES, "Used by another process", str(each))
        for target in targets:
            check_name(target)
            if os.path.lexists(target) and (not replaces or Path(target).is_dir()):
                raise FileExistsError(errno.EEXIST, "File exists", str(target))
        return call(path, *targets, **options)

    return guard


def check_name(path: Any) -> None:
    """Raise OSError if the last part of `path` is not possible on Windows."""
    name = Path(os.fsdecode(path)).name
    if name and file_names.name_problem(name):
        raise OSError(errno.EINVAL, "Invalid argument", str(path))


def on_open(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse to open directories, and to create files of impossible names."""
    if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
        return
    if isinstance(arguments[2], int) and arguments[2] & os.O_CREAT:
        check_name(arguments[0])
    if Path(os.fsdecode(arguments[0])).is_dir() and calling() != "tempfile":
        raise PermissionError(errno.EACCES, "Permission denied", str(arguments[0]))


def with_binary_flag(path: Any, flags: int, *rest: Any, **options: Any) -> int:
    """Open a descriptor, which converter must ask for in binary mode."""
    if calling().startswith("converter"):
        assert flags & O_BINARY, f"{path} is opened in text mode"
    return _open(path, flags & ~O_BINARY, *rest, **options)


def sync(fd: int) -> None:
    """Sync a descriptor that was opened for writing."""
    if _fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    _fsync(fd)


def library(name: Any, *rest: Any, **options: Any) -> Any:
    """Load a library, which must have a name."""
    if name is None:
        raise TypeError("bad argument type for built-in operation")
    return _library(name, *rest, **options)


def locking(fd: int, mode: int, nbytes: int) -> None:
    """Lock a byte of a file that no other descriptor has locked."""
    assert (mode, nbytes) == (2, 1)
    try:
        _flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PermissionError(errno.EACCES, "Permission denied") from error


_open, _fsync, _library = os.open, os.fsync, ctypes.CDLL
_fcntl, _flock = fcntl.fcntl, fcntl.flock

for module, names in MISSING.items():
    for each in names:
        delattr(module, each)
msvcrt: Any = ModuleType("msvcrt")
msvcrt.LK_NBLCK, msvcrt.locking = 2, locking
sys.modules["msvcrt"] = msvcrt
for absent in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[absent] = None  # type: ignore[assignment]
os.O_BINARY = O_BINARY  # type: ignore[attr-defined]
os.open, os.fsync, ctypes.CDLL = with_binary_flag, sync, library  # type: ignore[assignment,misc]
os.rename = guarded(os.rename, replaces=False)
for each in ("replace", "remove", "unlink", "rmdir"):
    setattr(os, each, guarded(getattr(os, each)))
shutil._use_fd_functions = shutil._USE_CP_SENDFILE = False  # type: ignore[attr-defined]

from converter import file_names  # noqa: E402 - it sees the system by these rules

sys.addaudithook(on_open)

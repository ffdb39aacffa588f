"""A finished directory appears at once, by rename; until then nothing has changed.

A run works in a hidden sibling of its output and holds a lock on it. Whatever kills the run, the
output is the old one or the new one, whole, and the next run clears away what was left.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from converter.errors import OutputError, Problem
from converter.file_names import CHECKPOINT_MARKERS

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
"""File systems without ``flock`` answer so; there two runs are not kept apart."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def atomic_directory(
    output: Path, overwrite: bool = False, resume: str | None = None
) -> Iterator[Path]:
    """A temporary directory that becomes `output` when the block ends well.

    Args:
        output: where the finished directory is to appear; its parents are created. A symbolic link
            to a directory stays, and what it points to is replaced.
        overwrite: whether a checkpoint that is already there may be replaced.
        resume: what the directory is known by. When the block fails and the file that
            `journal_path` names is there, both are kept, and the next run that resumes by
            the same finds them.

    Raises:
        OutputError: if there is something else at `output`, something that may not be replaced, if
            another run is writing there, or if the system refuses.

    """
    shown, output = output, Path(os.path.realpath(output))
    with _refusals(shown):
        output.parent.mkdir(parents=True, exist_ok=True)
    with _lock(output, shown) as alone:
        with _refusals(shown):
            # Without a lock, two runs might work in one directory.
            keep = resume is not None and alone
            partial = output.with_name(
                f".{output.name}.partial-{resume[:16] if resume and keep else secrets.token_hex(4)}"
            )
            if alone:
                _clear_leftovers(output, {partial, journal_path(partial)} if keep else set())
            _check_replaceable(output, shown, overwrite)
            partial.mkdir(exist_ok=keep)
        try:
            yield partial
            with _refusals(shown):
                _check_replaceable(output, shown, overwrite)
                # First, for what is called `partial` afterwards may be the old output.
                journal_path(partial).unlink(missing_ok=True)
                _replace(partial, output)
        finally:
            if not (keep and journal_path(partial).exists()):
                _remove(partial)
                _remove(journal_path(partial))


def journal_path(partial: Path) -> Path:
    """Where the journal of the work in a temporary directory lies: beside it, not in it."""
    return partial.with_name(f"{partial.name}.journal")


def require_space(directory: Path, nbytes: int) -> None:
    """Refuse early what cannot fit.

    Args:
        directory: where `nbytes` are to be written; it need not exist yet. What lies in it is to
            be written over.
        nbytes: bytes of all files to come.

    Raises:
        OutputError: if the file system that holds `directory` has less room.

    """
    existing = Path(os.path.realpath(directory))
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        free = shutil.disk_usage(existing).free + _taken(directory)
    except OSError:
        return
    if free < nbytes:
        raise OutputError(
            f"{directory}: too little room on the disk",
            [
                Problem(
                    "the output does not fit",
                    file=str(directory),
                    expected=f"{nbytes:,} bytes of room",
                    found=f"{free:,} bytes free",
                )
            ],
            remedy=f"Free {nbytes - free:,} bytes, or choose another place for the output.",
        )


def _taken(directory: Path) -> int:
    """Bytes that the files in a directory take on the disk."""
    return sum(512 * path.lstat().st_blocks for path in directory.rglob("*") if path.is_file())


@contextmanager
def _refusals(shown: Path) -> Iterator[None]:
    """Turn the system's refusals into an `OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{shown} cannot be written: {error.strerror or error}") from error


def _check_replaceable(output: Path, shown: Path, overwrite: bool) -> None:
    """Raises `OutputError` unless `output` is absent, empty, or a checkpoint to overwrite."""
    if not os.path.lexists(output):
        return
    if not output.is_dir():
        raise OutputError(
            f"{shown} exists and is not a directory", remedy="Choose another place for the output."
        )
    if not any(output.iterdir()):
        return
    if not any((output / mark).is_file() for mark in CHECKPOINT_MARKERS):
        raise OutputError(
            f"{shown} exists, is not empty and is no checkpoint (it has no config.json)",
            remedy="Choose another place for the output, or empty that directory.",
        )
    if not overwrite:
        raise OutputError(
            f"{shown} exists", remedy="Add --overwrite to replace it, or choose another place."
        )
    if Path.cwd().is_relative_to(output):
        raise OutputError(
            f"{shown} is or holds the current directory and cannot be replaced from within",
            remedy="Change to another directory first.",
        )


@contextmanager
def _lock(output: Path, shown: Path) -> Iterator[bool]:
    """Hold the lock of `output`, a hidden sibling file that vanishes afterwards.

    The lock goes with the process, however that ends. Yields whether it is really held.
    """
    path = output.with_name(f".{output.name}.lock")
    while True:
        with _refusals(shown):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(fd)
                raise OutputError(
                    f"{shown}: another run is writing there",
                    remedy="Wait until it has finished, or choose another place for the output.",
                ) from error
            held = False
        if not held or _is_same(fd, path):
            break
        os.close(fd)  # its last holder removed it before we got the lock: begin again
    try:
        yield held
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(fd)


def _is_same(fd: int, path: Path) -> bool:
    """Whether `path` is still the file opened as `fd`."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _clear_leftovers(output: Path, kept: set[Path]) -> None:
    """Undo what a killed run left, `kept` excepted; the lock proves that none is alive.

    Of a directory and its journal both stay or none.
    """
    replaced = [path for path in _siblings(output, "previous") if path.is_dir()]
    if replaced and not os.path.lexists(output):
        replaced.pop().rename(output)  # it was killed between two renames
    partial = _siblings(output, "partial")
    if not all(path in partial and _is_ours(path) for path in kept):
        kept = set()
    for leftover in (*replaced, *partial):
        if leftover not in kept:
            _remove(leftover)


def _siblings(output: Path, kind: str) -> list[Path]:
    prefix = f".{output.name}.{kind}-"
    return [
        Path(entry.path) for entry in os.scandir(output.parent) if entry.name.startswith(prefix)
    ]


def _is_ours(path: Path) -> bool:
    """Whether `path` is ours and no link: in a shared directory others might prepare one."""
    status = path.lstat()
    return not stat.S_ISLNK(status.st_mode) and status.st_uid == os.geteuid()


def _remove(path: Path) -> None:
    """Remove a directory or a file, as far as the system lets us."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _replace(partial: Path, output: Path) -> None:
    """Give `partial` the name of `output`, and remove what had it before."""
    if not output.exists():
        partial.rename(output)
        return
    if not any(output.iterdir()):
        with suppress(OSError):
            partial.rename(output)  # POSIX lets a directory replace an empty one
            return
    if _exchange(partial, output):
        return  # what was there is now called `partial`, and goes with it
    previous = output.with_name(output.name.join((".", f".previous-{secrets.token_hex(4)}")))
    output.rename(previous)
    try:
        partial.rename(output)
    except BaseException:
        previous.rename(output)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step, where the system can (Linux ≥ 3.15, most file systems)."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    names = os.fsencode(first), os.fsencode(second)
    return bool(rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)

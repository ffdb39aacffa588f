"""Writing a directory atomically: it appears complete, by rename, or not at all.

A run works in a hidden sibling of its output and holds a lock on it. However the run ends, the
output is the complete old or the complete new directory, and the next run removes leftovers.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from converter.errors import OutputError, Problem
from converter.file_names import CHECKPOINT_MARKERS, name_problem
from converter.storage.base import check_overwrite, is_inside, not_a_directory_error
from converter.system import (
    IS_WINDOWS,
    allocated_bytes,
    exchange,
    is_own,
    lock,
    open_for_update,
    remove_lock,
    rename,
)


@contextmanager
def atomic_directory(
    output: Path, overwrite: bool = False, resume: str | None = None
) -> Iterator[Path]:
    """Yield a temporary directory that becomes `output` when the block succeeds.

    The parents of `output` are created. A symbolic link to a directory stays, and its target is
    replaced. `resume` is a key that identifies the work: when the block fails and the file at
    `journal_path` exists, both are kept for the next run with the same key. Raise `OutputError` if
    `output` may not be replaced, another run is writing it, or the system refuses.
    """
    _check_name(output)
    given, output = output, Path(os.path.realpath(output))
    with _translate_os_errors(given):
        output.parent.mkdir(parents=True, exist_ok=True)
    with _lock(output, given) as locked:
        with _translate_os_errors(given):
            # Without a lock, two runs might work in one directory.
            keep = resume is not None and locked
            partial = output.with_name(
                f".{output.name}.partial-{resume[:16] if resume and keep else secrets.token_hex(4)}"
            )
            if locked:
                _clear_leftovers(output, {partial, journal_path(partial)} if keep else set())
            _check_replaceable(output, given, overwrite)
            partial.mkdir(exist_ok=keep)
        try:
            yield partial
            with _translate_os_errors(given):
                _check_replaceable(output, given, overwrite)
                # First, since `partial` may be the name of the old output afterwards.
                journal_path(partial).unlink(missing_ok=True)
                _replace(partial, output)
        finally:
            if not (keep and journal_path(partial).exists()):
                _remove(partial)
                _remove(journal_path(partial))


def journal_path(partial: Path) -> Path:
    """Return the path of the journal of a temporary directory, next to it."""
    return partial.with_name(f"{partial.name}.journal")


def require_space(directory: Path, nbytes: int) -> None:
    """Raise `OutputError` unless `nbytes` fit on the disk of `directory`, which they replace."""
    existing = Path(os.path.realpath(directory))
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        replaced = [path.lstat() for path in directory.rglob("*") if path.is_file()]
        free = shutil.disk_usage(existing).free + sum(map(allocated_bytes, replaced))
    except OSError:
        return
    if free < nbytes:
        needed = f"{nbytes:,} bytes of space", f"{free:,} bytes free"
        raise OutputError(
            f"{directory}: not enough disk space",
            [Problem("the output does not fit", str(directory), None, *needed)],
            remedy=f"Free {nbytes - free:,} bytes, or choose another output location.",
        )


def _check_name(output: Path) -> None:
    """Raise `OutputError` on Windows if a part of `output` is not possible there."""
    for part in output.parts[bool(output.anchor) :] if IS_WINDOWS else ():
        if part != ".." and (what := name_problem(part)):
            raise OutputError(
                f"{output}: {part!r} {what}", remedy="Choose another output location."
            )


@contextmanager
def _translate_os_errors(given: Path) -> Iterator[None]:
    """Turn an error of the system into an `OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{given} cannot be written: {error.strerror or error}") from error


def _check_replaceable(output: Path, given: Path, overwrite: bool) -> None:
    """Raise `OutputError` unless `output` is absent, empty, or a checkpoint to overwrite."""
    if not os.path.lexists(output):
        return
    if not output.is_dir():
        raise not_a_directory_error(given)
    if not any(output.iterdir()):
        return
    is_checkpoint = any((output / name).is_file() for name in CHECKPOINT_MARKERS)
    check_overwrite(given, is_checkpoint=is_checkpoint, overwrite=overwrite)
    if is_inside(Path.cwd(), output):
        raise OutputError(
            f"{given} is or contains the current directory and cannot be replaced",
            remedy="Change to another directory first.",
        )


@contextmanager
def _lock(output: Path, given: Path) -> Iterator[bool]:
    """Hold the lock of `output`, a hidden sibling file that is removed afterwards.

    The system releases the lock when the process ends. Yields whether the file system has locks.
    """
    path = output.with_name(f".{output.name}.lock")
    while True:
        with _translate_os_errors(given):
            fd = open_for_update(path, create=True)
        try:
            locked = lock(fd)
        except BlockingIOError as error:
            os.close(fd)
            raise OutputError(
                f"{given}: another run is writing it",
                remedy="Wait until it has finished, or choose another output location.",
            ) from error
        if not locked or _is_same(fd, path):
            break
        os.close(fd)  # its last holder removed it before we got the lock: try again
    try:
        yield locked
    finally:
        remove_lock(fd, path)


def _is_same(fd: int, path: Path) -> bool:
    """Return whether `path` is still the file opened as `fd`."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _clear_leftovers(output: Path, kept: set[Path]) -> None:
    """Remove what killed runs left, except `kept`; the lock proves that none is running.

    A directory and its journal are kept together or not at all.
    """
    replaced = [path for path in _siblings(output, "previous") if path.is_dir()]
    if replaced and not os.path.lexists(output):
        rename(replaced.pop(), output)  # the run was killed between two renames
    partial = _siblings(output, "partial")
    if not all(path in partial and is_own(path) for path in kept):
        kept = set()
    for leftover in {*replaced, *partial} - kept:
        _remove(leftover)


def _siblings(output: Path, kind: str) -> list[Path]:
    prefix = f".{output.name}.{kind}-"
    return [path for path in output.parent.iterdir() if path.name.startswith(prefix)]


def _remove(path: Path) -> None:
    """Remove a directory or a file, ignoring errors."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _replace(partial: Path, output: Path) -> None:
    """Rename `partial` to `output`, and remove the old directory."""
    if not output.exists():
        rename(partial, output)
        return
    if not any(output.iterdir()):
        with suppress(OSError):
            partial.rename(output)  # POSIX lets a directory replace an empty one
            return
    if exchange(partial, output):
        return  # the old output is now called `partial`, which the caller removes
    previous = output.with_name(output.name.join((".", f".previous-{secrets.token_hex(4)}")))
    rename(output, previous)
    try:
        rename(partial, output)
    except BaseException:
        rename(previous, output)
        raise
    shutil.rmtree(previous, ignore_errors=True)

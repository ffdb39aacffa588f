"""Writing a directory or file atomically: it appears complete, by rename, or not at all.

A run works in a hidden sibling of its output and holds a lock on it. However the run ends, the
output is the complete old or the complete new directory, and the next run removes leftovers.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from converter.cleanup import LockFile, complete, remove
from converter.errors import OutputError, Problem
from converter.file_names import CHECKPOINT_MARKERS, name_problem
from converter.storage.base import check_overwrite, is_inside, not_a_directory_error
from converter.system import (
    IS_WINDOWS,
    allocated_bytes,
    exchange,
    has_hard_links,
    is_own,
    rename,
    sync_directory,
    sync_file,
)


@contextmanager
def atomic_directory(
    output: Path, overwrite: bool = False, resume: str | None = None, sync: bool = False
) -> Iterator[Path]:
    """Yield a temporary directory that becomes `output` when the block succeeds.

    The parents of `output` are created. A symbolic link to a directory stays, and its target is
    replaced. `resume` is a key that identifies the work: when the block fails and the file at
    `journal_path` exists, both are kept for the next run with the same key. With `sync`,
    everything is on the disk before the old output is replaced, and so is the replacement when
    this ends. Raise `OutputError` if `output` may not be replaced, another run is writing it, or
    the system refuses.
    """
    _check_name(output)
    given, output = output, Path(os.path.realpath(output))
    with _translate_os_errors(given):
        missing = [path for path in output.parents if not path.exists()]
    lock_file = LockFile(output.with_name(f".{output.name}.lock"))
    token, keep = os.urandom(4).hex(), False
    partial = output.with_name(f".{output.name}.partial-{token}")
    previous = output.with_name(f".{output.name}.previous-{token}")

    def clean_up() -> None:
        _settle(output, [previous])
        if not (keep and journal_path(partial).exists()):
            remove(partial)
            remove(journal_path(partial))
        lock_file.release()
        with suppress(OSError):  # as soon as one is not empty
            for path in missing:
                path.rmdir()

    try:
        with _translate_os_errors(given):
            locked = lock_file.acquire()
            if locked:
                if resume is not None:  # without a lock, two runs might work in one directory
                    keep, partial = True, output.with_name(f".{output.name}.partial-{resume[:16]}")
                _clear_leftovers(output, {partial, journal_path(partial)} if keep else set())
            _check_replaceable(output, given, overwrite)
            partial.mkdir(exist_ok=keep)
        yield partial
        with _translate_os_errors(given):
            _check_replaceable(output, given, overwrite)
            if sync:
                _sync_contents(partial)
            # First, since `partial` may be the name of the old output afterwards.
            journal_path(partial).unlink(missing_ok=True)
            _replace(partial, output, previous)
            for directory in (output, *missing) if sync else ():
                sync_directory(directory.parent)
    finally:
        complete(clean_up)


def _sync_contents(directory: Path) -> None:
    """Write all files and directories below `directory`, and itself, through to the disk."""
    for path in sorted(directory.rglob("*"), reverse=True):  # names before those of their parents
        (sync_directory if path.is_dir() else sync_file)(path)
    sync_directory(directory)


def write_file(path: Path, data: bytes | None) -> None:
    """Write a small file, which appears complete or not at all; with ``None``, check only.

    A link stays, and its target is replaced; into a device or FIFO it is written directly. Raise
    `OutputError` if it cannot be written.
    """
    partial: Path | None = None
    try:
        is_stream = path.parts[:2] in (("/", "dev"), ("/", "proc"))
        if is_stream or (path.exists() and not path.is_file()):
            if data is not None:
                path.write_bytes(data)
            return
        target = Path(os.path.realpath(path))
        partial = target.with_name(f".{target.name}.partial-{os.urandom(4).hex()}")
        partial.write_bytes(data or b"")
        if target.exists():
            partial.chmod(stat.S_IMODE(target.stat().st_mode))
        if data is not None:
            partial.replace(target)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        if partial:
            complete(functools.partial(remove, partial))


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
    except BlockingIOError as error:
        raise OutputError(
            f"{given}: another run is writing it",
            remedy="Wait until it has finished, or choose another output location.",
        ) from error
    except OSError as error:
        what = error.strerror or str(error)
        where = error.filename if isinstance(error.filename, str) else None
        problems = [Problem(what, where)] if where and where != str(given) else []
        raise OutputError(f"{given} cannot be written: {what}", problems) from error


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


def _clear_leftovers(output: Path, kept: set[Path]) -> None:
    """Remove what killed runs left, except `kept`; the lock proves that none is running.

    A directory and its journal are kept together or not at all.
    """
    _settle(output, [path for path in _siblings(output, "previous") if is_own(path)])
    partial = _siblings(output, "partial")
    if not all(path in partial and _is_kept(path) for path in kept):
        kept = set()
    for leftover in set(partial) - kept:
        remove(leftover)


def _is_kept(path: Path) -> bool:
    """Return whether `path` is our own directory or journal, and no name of another file."""
    status = path.lstat()
    is_journal = stat.S_ISREG(status.st_mode) and not has_hard_links(status)
    right = is_journal if path.suffix == ".journal" else stat.S_ISDIR(status.st_mode)
    return right and is_own(path)


def _settle(output: Path, replaced: Sequence[Path]) -> None:
    """Restore the old output if a run ended between two renames; remove other replaced ones."""
    for path in replaced:
        if path.is_dir() and not os.path.lexists(output):
            rename(path, output)
        remove(path)


def _siblings(output: Path, kind: str) -> list[Path]:
    """Return the hidden files and directories of runs that write `output`."""
    pattern = re.compile(rf"\.{re.escape(output.name)}\.{kind}-[0-9a-f]+(\.journal)?")
    return [path for path in output.parent.iterdir() if pattern.fullmatch(path.name)]


def _replace(partial: Path, output: Path, previous: Path) -> None:
    """Rename `partial` to `output`; the old directory gets one of the other names."""
    if not output.exists():
        rename(partial, output)
        return
    if not any(output.iterdir()):
        with suppress(OSError):
            partial.rename(output)  # POSIX lets a directory replace an empty one
            return
    if not exchange(partial, output):
        rename(output, previous)
        rename(partial, output)

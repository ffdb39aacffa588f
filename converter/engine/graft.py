"""Taking over an output file that an earlier run left unfinished."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from converter.containers.base import OutputFile, pread_exactly

_PIECE = 1 << 20


def graft(path: Path, create: Callable[[Path], OutputFile]) -> OutputFile:
    """Lay out the file at `path` anew, but keep the tensors' bytes of the one that is there.

    Whatever lies between the tensors is written again, so that all of it is as in a new file: the
    earlier run may have been killed in the middle of that, or have sealed the file already.

    Args:
        path: the unfinished file.
        create: lays out the file that is wanted at a path.

    Raises:
        OSError: if the system refuses.
    """
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    output = create(beside)
    size = beside.stat().st_size
    if path.is_symlink() or path.stat().st_size != size:
        beside.replace(path)
    else:
        _copy_between(beside, path, output, size)
        beside.unlink()
    output.path = path
    return output


def unwanted(directory: Path, wanted: set[Path]) -> None:
    """Remove everything from `directory` but the files in `wanted`, which nothing else shares.

    Raises:
        OSError: if the system refuses.
    """
    for path in list(directory.rglob("*")):
        if path.is_symlink() or (path.is_file() and path not in wanted):
            path.unlink()


def _copy_between(source: Path, target: Path, output: OutputFile, size: int) -> None:
    """Copy what lies before, between and behind the tensors."""
    runs = sorted(
        (segment.file_offset, segment.file_offset + segment.nbytes)
        for segments in output.segments.values()
        for segment in segments
        if segment.nbytes
    )
    with source.open("rb") as old, target.open("r+b") as new:
        done = 0
        for start, end in (*runs, (size, size)):
            while done < start:
                buffer = bytearray(min(_PIECE, start - done))
                pread_exactly(old.fileno(), memoryview(buffer), done)
                os.pwrite(new.fileno(), buffer, done)
                done += len(buffer)
            done = max(done, end)

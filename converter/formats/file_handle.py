"""Bounded access to checkpoint files: opening, reading by offset, checking, creating."""

from __future__ import annotations

import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from converter.errors import FormatError, Problem
from converter.formats.base import read_exactly
from converter.safe_json import open_regular
from converter.system import read_ahead
from converter.tensors import TensorSpec, itemsize

MAX_RANK = 32
"""Axes that every numpy supports; 64 since numpy 2."""
MAX_TENSORS = 1 << 18
"""Tensors in one file; more than any model has. Bounds the memory of a hostile header."""
FETCH_AGAIN = "fetch or write the file again"
"""The remedy for a damaged or truncated file."""


def format_error(
    path: Path,
    what: str,
    tensor: str | None = None,
    expected: object = None,
    found: object = None,
    remedy: str | None = None,
) -> FormatError:
    """Return the error for a file that is damaged, truncated, inconsistent or hostile.

    `what` is the problem in one clause; the three parts after it are sanitized.
    """
    safe = [None if part is None else sanitize(str(part)) for part in (tensor, expected, found)]
    problem = Problem(what, path.name, safe[0], safe[1], safe[2], remedy)
    return FormatError(f"{path}: cannot be read", [problem])


_REPEATED = re.compile(r"([^\x20-\x7e])\1{7,}")
"""What a damaged file has many of, such as null bytes."""


def sanitize(text: str, limit: int = 200) -> str:
    """Return `text` truncated and printable, whatever a hostile file put into it."""
    text = text if len(text) <= limit else f"{text[: limit - 1]}…"
    if text.isprintable():
        return text
    return ascii(_REPEATED.sub(lambda run: f"{run[1]} ({len(run[0])} times)", text))[1:-1]


class FileHandle(ABC):
    """A file, local or remote, open for reading by offset from any number of threads."""

    path: Path
    """Its path if it is local; otherwise a name for messages."""
    size: int
    """Bytes of the file when it was opened."""
    is_remote = False
    """If true, each read may be a request: what only values need is to be read with the values."""
    has_scattered_headers = False
    """Set by formats with headers between the values, which helps if reads are slow."""

    @abstractmethod
    def close(self) -> None:
        """Close the file; further reads raise `ValueError`."""

    @abstractmethod
    def open_sibling(self, name: str) -> FileHandle | None:
        """Open the file called `name` in the same directory; return ``None`` if not found."""

    @abstractmethod
    def as_file_argument(self) -> Path | BinaryIO:
        """Return the path or a file object, for libraries that open files themselves."""

    @abstractmethod
    def _fill(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset`.

        Raise EOFError with the size of the file, if it ends first; OSError if the system cannot
        read it; CheckpointError if it is remote and not available; ValueError if it is closed.
        """

    def error(
        self,
        what: str,
        tensor: str | None = None,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
    ) -> FormatError:
        """Return the error for damaged content; see `format_error`."""
        return format_error(self.path, what, tensor, expected, found, remedy)

    def ends_early(self, expected: object, found: object, tensor: str | None = None) -> FormatError:
        """Return the error for a truncated file; see `format_error`."""
        return self.error("the file ends early", tensor, expected, found, FETCH_AGAIN)

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Announce ranges (offset, bytes) that will soon be read, which helps if reads are slow."""
        del ranges

    def read_ahead(self, offset: int, nbytes: int) -> None:
        """Announce that values in a range will soon be read, if it is on a disk."""
        del offset, nbytes

    def fill(self, buffer: memoryview, offset: int, tensor: str | None = None) -> None:
        """Fill `buffer`, one-dimensional and of bytes, from `offset` of the file.

        Raise FormatError, which names `tensor`, if the file ends first or the system cannot read
        it; CheckpointError if it is remote and not available; ValueError if it is closed.
        """
        try:
            self._fill(buffer, offset)
        except EOFError as error:
            expected = f"bytes {offset} to {offset + len(buffer)}"
            raise self.ends_early(expected, f"{error.args[0]} bytes", tensor) from None
        except OSError as error:
            raise format_error(self.path, f"read error: {error.strerror}", tensor) from error

    def read(self, offset: int, nbytes: int, tensor: str | None = None) -> bytes:
        """Return `nbytes` from `offset`; raise as `fill`, before allocating what is not there."""
        if not 0 <= offset <= offset + nbytes <= self.size:
            expected = f"bytes {offset} to {offset + nbytes}"
            raise self.ends_early(expected, f"{self.size} bytes", tensor)
        buffer = bytearray(nbytes)
        self.fill(memoryview(buffer), offset, tensor)
        return bytes(buffer)


class LocalFile(FileHandle):
    """A local file; raises `CheckpointError` if it is not regular or cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = open_regular(path)
        self.size = os.fstat(self._fd).st_size

    def close(self) -> None:
        """Close the file; further reads raise `ValueError`."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def open_sibling(self, name: str) -> FileHandle | None:
        """Open the file called `name` in the same directory; return ``None`` if not found."""
        other = self.path.with_name(name)
        return LocalFile(other) if other.is_file() else None

    def as_file_argument(self) -> Path:
        """Return the path."""
        return self.path

    def read_ahead(self, offset: int, nbytes: int) -> None:
        """Let the system read a range ahead; see `FileHandle.read_ahead`."""
        read_ahead(self._fd, offset, nbytes)

    def _fill(self, buffer: memoryview, offset: int) -> None:
        if self._fd < 0:
            raise ValueError(f"{self.path} is closed")
        read_exactly(self._fd, buffer, offset)


@contextmanager
def closed_on_error(file: FileHandle) -> Iterator[None]:
    """Close `file` if the ``with`` block raises."""
    try:
        yield
    except BaseException:
        file.close()
        raise


def checked_spec(path: Path, name: str, dtype: str, shape: Sequence[object]) -> TensorSpec:
    """Return the specification of a stored tensor, after checking its shape.

    Raise FormatError if `shape` holds anything but lengths, or numpy cannot hold it.
    """
    lengths = tuple(length for length in shape if type(length) is int and 0 <= length < 1 << 63)
    # numpy limits the product of the other axes even of an empty array.
    nbytes = math.prod(length or 1 for length in lengths[:MAX_RANK]) * itemsize(dtype)
    if len(lengths) != len(shape) or len(lengths) > MAX_RANK or nbytes >= 1 << 63:
        raise format_error(
            path,
            "impossible shape",
            name,
            f"up to {MAX_RANK} lengths and less than 2^63 bytes",
            list(shape[: MAX_RANK + 1]),
        )
    return TensorSpec(name, dtype, lengths)


def create_file(path: Path, size: int, pieces: Iterable[tuple[int, bytes]]) -> None:
    """Create a file of `size` bytes that holds each piece at its offset, and holes between them.

    Raise OSError if `path` exists or cannot be written; then nothing is left.
    """
    file = path.open("xb")
    try:
        with file:
            file.truncate(size)
            for offset, data in pieces:
                file.seek(offset)
                file.write(data)
    except BaseException:
        path.unlink()  # once it is closed: Windows removes no open file
        raise

"""An open checkpoint file, and the one way in which a bad one is reported."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from converter.containers.base import pread_exactly
from converter.errors import CheckpointError, FormatError, Problem


def damaged(
    path: Path,
    what: str,
    *,
    tensor: str | None = None,
    expected: object = None,
    found: object = None,
    remedy: str | None = None,
) -> FormatError:
    """The error for a file that is damaged, truncated, lying or hostile.

    Args:
        path: the file.
        what: the finding in one clause.
        tensor: the tensor that it concerns, shortened if the file makes it absurdly long.
        expected: what the format demands.
        found: what the file holds.
        remedy: what the user can do.
    """
    problem = Problem(
        what,
        file=path.name,
        tensor=None if tensor is None else shortened(tensor),
        expected=None if expected is None else shortened(str(expected)),
        found=None if found is None else shortened(str(found)),
        remedy=remedy,
    )
    return FormatError(f"{path}: cannot be read", [problem])


def shortened(text: str, limit: int = 200) -> str:
    """`text` fit for a message, whatever a hostile file put into it."""
    text = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return text if text.isprintable() else ascii(text)[1:-1]


class FileHandle:
    """A regular file, open for reading by position from any number of threads.

    Nothing is counted: whoever opened it closes it once, after the last read.

    Raises:
        CheckpointError: if `path` is no regular file or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes_read = 0
        """Bytes read so far; exact only while one thread reads."""
        try:
            # Without O_NONBLOCK, opening a FIFO would wait for a writer.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise CheckpointError(f"{path}: cannot be read: not a regular file")
        self.size = status.st_size
        """Bytes of the file when it was opened."""

    def close(self) -> None:
        """Let go of the file; further reads raise `ValueError`."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def fill(self, buffer: memoryview, offset: int, tensor: str | None = None) -> None:
        """Fill the bytes of `buffer` from `offset` of the file.

        Args:
            buffer: one-dimensional, of bytes.
            offset: where in the file to start.
            tensor: on whose behalf, for the message.

        Raises:
            FormatError: if the file ends first or the system cannot read it.
            ValueError: if the file is closed.
        """
        if self._fd < 0:
            raise ValueError(f"{self.path} is closed")
        end = offset + len(buffer)
        try:
            pread_exactly(self._fd, buffer, offset)
        except EOFError as error:
            raise damaged(
                self.path,
                "the file ends early",
                tensor=tensor,
                expected=f"bytes {offset} to {end}",
                found=f"{error.args[0]} bytes",
                remedy="fetch or write the file again",
            ) from None
        except OSError as error:
            raise damaged(self.path, f"read error: {error.strerror}", tensor=tensor) from error
        self.bytes_read += len(buffer)

    def read(self, offset: int, nbytes: int, tensor: str | None = None) -> bytes:
        """`nbytes` from `offset`; takes no memory when the file does not hold them.

        Raises:
            FormatError: as `fill`.
        """
        if not 0 <= offset <= offset + nbytes <= self.size:
            raise damaged(
                self.path,
                "the file ends early",
                tensor=tensor,
                expected=f"bytes {offset} to {offset + nbytes}",
                found=f"{self.size} bytes",
                remedy="fetch or write the file again",
            )
        buffer = bytearray(nbytes)
        self.fill(memoryview(buffer), offset, tensor)
        return bytes(buffer)

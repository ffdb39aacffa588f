"""Limits on what a server sends: its size, its speed, and that it is what was asked for.

A server may be slow, endless or hostile. Without these limits, a few kilobytes of compressed data
can fill the memory, and a byte a second keeps a command busy forever.
"""

from __future__ import annotations

import re
from functools import cache
from time import monotonic
from typing import Any

MIN_BYTES_PER_SECOND = 1_000
"""Slower transfers fail, unless they are complete within `GRACE_SECONDS`."""
GRACE_SECONDS = 30.0
"""Seconds after which the speed of a transfer is looked at."""
MAX_ANSWER_BYTES = 64 << 20
"""Of a listing or another small answer; larger than any that a checkpoint needs."""
_SILENCE_SECONDS = 30
"""Seconds without a byte after which a connection is given up."""

_BYTE_RANGE = re.compile(r"bytes[= ](\d+)-(\d+)(?:/.*)?")


class TransferError(RuntimeError):
    """A server sends too much, too slowly, or something else than was asked for.

    Not an OSError, which fsspec takes for an empty directory.
    """


class TransferLimit:
    """Counts the bytes of one transfer.

    Args:
        nbytes: the most that may arrive.

    """

    def __init__(self, nbytes: int) -> None:
        self._limit, self._received = nbytes, 0
        self._start = monotonic()

    def add(self, nbytes: int) -> None:
        """Count bytes that have arrived; raise `TransferError` if too many or too slow."""
        self._received += nbytes
        if self._received > self._limit:
            raise TransferError(f"the server sends more than {self._limit:,} bytes")
        seconds = monotonic() - self._start
        if seconds > GRACE_SECONDS and self._received < MIN_BYTES_PER_SECOND * seconds:
            raise TransferError(
                f"the server is too slow: {self._received:,} bytes in {seconds:.0f} seconds"
            )


def check_answer(status: int, headers: Any, requested: str | None) -> None:
    """Raise `TransferError` if an answer is compressed, or not the byte range `requested`."""
    if status not in (200, 206):
        return
    encoding = headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("", "identity"):
        raise TransferError(f"the server compresses its answer ({encoding[:20]}), unasked")
    asked = _BYTE_RANGE.fullmatch(requested or "")
    if not asked:
        return
    sent = _BYTE_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    first, last = map(int, asked.groups())
    if status == 200 and first > 0:
        raise TransferError("the server does not support range requests")
    if status == 206 and not (sent and int(sent[1]) == first and int(sent[2]) <= last):
        raise TransferError("the server sends other bytes than it was asked for")


def answer_limit(requested: str | None) -> int:
    """Return the most bytes of the answer to a request, given its ``Range`` header if any."""
    asked = _BYTE_RANGE.fullmatch(requested or "")
    return int(asked[2]) - int(asked[1]) + 1 if asked else MAX_ANSWER_BYTES


@cache
def http_options() -> dict[str, Any]:
    """Return the options of fsspec's HTTP file system that put these limits into effect."""
    import aiohttp

    class Response(aiohttp.ClientResponse):
        """An answer that is read as far as the limits allow."""

        async def start(self, connection: Any) -> Any:
            started = await super().start(connection)
            try:
                check_answer(self.status, self.headers, self.request_info.headers.get("Range"))
            except TransferError:
                self.close()
                raise
            return started

        async def read(self) -> bytes:
            if self._body is None:
                data = bytearray()
                limit = TransferLimit(answer_limit(self.request_info.headers.get("Range")))
                async for chunk in self.content.iter_any():
                    try:
                        limit.add(len(chunk))
                    except TransferError:
                        self.close()
                        raise
                    data += chunk
                self._body = bytes(data)
            return self._body

    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=_SILENCE_SECONDS, sock_read=_SILENCE_SECONDS
    )
    return {
        "client_kwargs": {
            "auto_decompress": False,
            "headers": {"Accept-Encoding": "identity"},
            "response_class": Response,
            "timeout": timeout,
        }
    }

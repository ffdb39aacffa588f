"""A file of a repository, a part at a time, by HTTP range requests.

The client's own session is used, with its settings for proxies and certificates. Where the file
really lies is asked for once: large files lie in a storage of another host, which answers an
address that is signed for a while, and which never sees the user's token.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from converter.errors import CheckpointError
from converter.hub.failure import patiently, telling

_TIMEOUT = 30
"""Seconds without an answer before a request is given up."""


class HubRanges:
    """The bytes of a file at a commit; see `converter.containers.ranged.Ranges`.

    Args:
        repo_id: ``org/name``.
        name: of the file in the repository.
        url: where the Hub has it, at a commit: it must not change while it is read.
        size: its bytes, as the Hub lists them.
    """

    def __init__(self, repo_id: str, name: str, url: str, size: int) -> None:
        self.size = size
        self._repo_id = repo_id
        self._name = name
        self._url = url
        self._place: str | None = None
        self._lock = threading.Lock()

    def read(self, offset: int, nbytes: int) -> bytes:
        """The bytes from `offset`, exactly so many.

        Raises:
            CheckpointError: if the Hub refuses, cannot be reached, or gives something else.
        """
        what = f"{self._repo_id}: {self._name} cannot be read from the Hub"
        with telling(CheckpointError, what, self._repo_id):
            return patiently(lambda: self._ask(offset, nbytes))

    def _ask(self, offset: int, nbytes: int) -> bytes:
        """One request; a second one if the address has expired meanwhile."""
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            hf_raise_for_status,
        )

        for attempt in (1, 2):
            place = self._located()
            headers = {
                "Accept-Encoding": "identity",
                "Range": f"bytes={offset}-{offset + nbytes - 1}",
            }
            if _origin(place) == _origin(self._url):
                headers = {**build_hf_headers(library_name="converter"), **headers}
            with _answer(place, headers) as answer:
                status = answer.status_code
                if status in (400, 401, 403, 404, 410) and place != self._url and attempt == 1:
                    with self._lock:
                        self._place = None
                    continue
                hf_raise_for_status(answer)
                self._check(answer, status, offset, nbytes)
                return _body(answer, nbytes)
        raise AssertionError("the second attempt answers or raises")

    def _located(self) -> str:
        """Where the file lies."""
        from huggingface_hub import get_hf_file_metadata

        with self._lock:
            if self._place is None:
                found = get_hf_file_metadata(self._url)
                if found.size is not None and found.size != self.size:
                    raise CheckpointError(
                        f"{self._repo_id}: {self._name} has {found.size} bytes where the Hub lists "
                        f"{self.size}"
                    )
                self._place = str(found.location)
            return self._place

    def _check(self, answer: Any, status: int, offset: int, nbytes: int) -> None:
        """Make sure that the part was answered, and not the whole, which could be of any size."""
        stated = answer.headers.get("Content-Range", "").partition("/")[0].strip()
        whole = status == 200 and offset == 0 and nbytes == self.size
        if not whole and (status, stated) != (206, f"bytes {offset}-{offset + nbytes - 1}"):
            raise CheckpointError(
                f"{self._repo_id}: {self._name}: parts of the file cannot be asked for",
                remedy=f"Fetch it as a whole: hf download {self._repo_id} {self._name}",
            )


@contextmanager
def _answer(url: str, headers: dict[str, str]) -> Iterator[Any]:
    """The answer to a request, its body unread; the library below the client differs by version."""
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    session: Any = get_session()
    if callable(getattr(session, "stream", None)):  # httpx, since version 1 of the client
        with session.stream("GET", url, headers=headers, timeout=_TIMEOUT) as answer:
            if answer.status_code >= 400:
                answer.read()
            yield answer
    else:
        with session.get(url, headers=headers, timeout=_TIMEOUT, stream=True) as answer:
            yield answer


def _body(answer: Any, nbytes: int) -> bytes:
    """At most `nbytes` of a body; a connection that ends early raises, or leaves it shorter."""
    pieces = answer.iter_bytes() if hasattr(answer, "iter_bytes") else answer.iter_content(1 << 16)
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) >= nbytes:
            break
    if len(data) < nbytes:
        raise ConnectionError(f"the answer ended after {len(data)} of {nbytes} bytes")
    return bytes(data[:nbytes])


def _origin(url: str) -> tuple[str, str]:
    """Scheme and host of an address, to which a token belongs."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc

"""Where a source comes from: the one way from a reference to files of this machine."""

from __future__ import annotations

from pathlib import Path

from converter.hub.fetch import Fetched, fetched
from converter.remote.staging import Staged, staged_source
from converter.remote.url import url_of


def origin_of(reference: str | Path, weights: str = "one") -> Fetched | Staged | None:
    """What was fetched for `reference`, ``None`` if it is a path of this machine.

    Args:
        reference: a URL, an id of the Hub, or a path; a path that exists wins over an id.
        weights: see `fetched`.

    Raises:
        CheckpointError: if it cannot be had.
        UnsupportedError: if the library of a URL's protocol is not installed.
    """
    url = url_of(reference)
    return staged_source(url, weights) if url else fetched(reference, weights)

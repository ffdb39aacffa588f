"""Where a source comes from: the one way from a reference to files of this machine."""

from __future__ import annotations

from pathlib import Path

from converter.storage.hub_download import HubSnapshot, download_repo
from converter.storage.url import url_of
from converter.storage.url_download import UrlDownload, download


def resolve_source(reference: str | Path, weights: str = "one") -> HubSnapshot | UrlDownload | None:
    """What was fetched for `reference`, ``None`` if it is a path of this machine.

    Args:
        reference: a URL, an id of the Hub, or a path; a path that exists wins over an id.
        weights: see `download_repo`.

    Raises:
        CheckpointError: if it cannot be had.
        UnsupportedError: if the library of a URL's protocol is not installed.

    """
    url = url_of(reference)
    return download(url, weights) if url else download_repo(reference, weights)

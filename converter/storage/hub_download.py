"""A repository of the Hub as a directory of the cache, holding the files that are needed."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from converter.errors import CheckpointError, Problem
from converter.file_names import INDEX_SUFFIX, WEIGHT_FILES, auxiliary_files, weight_files
from converter.formats.directory import CheckpointDirectory, LocalDirectory, RemoteDirectory
from converter.safe_json import read_json_object
from converter.storage.hub_client import HubRepo, parse_repo_id, retry, translate_hub_errors

_TIMEOUT = 30
"""Seconds without an answer before a request is given up."""


class HubRanges:
    """The bytes of a file at a commit; see `converter.formats.range_reader.Ranges`.

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
        with translate_hub_errors(CheckpointError, what, self._repo_id):
            return retry(lambda: self._ask(offset, nbytes))

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


_log = logging.getLogger(__name__)

_AT_ONCE = 4
"""Files that are fetched at the same time."""


@dataclass(frozen=True, slots=True)
class HubSnapshot:
    """What was fetched."""

    id: HubRepo
    commit: str
    """The commit that the revision means now: 40 hexadecimal digits."""
    directory: Path
    """A snapshot of the Hub's cache."""
    folder: CheckpointDirectory
    """The same with the files that were not fetched, which are read a part at a time."""


def download_repo(reference: str | Path, weights: str = "one") -> HubSnapshot | None:
    """The files of the repository that `reference` means, ``None`` if it can only be a path.

    Args:
        reference: ``org/name[@revision]``, or a path; a path that exists wins.
        weights: which weight files to fetch beside the small ones: those of ``one`` format
            (safetensors before PyTorch's, TensorFlow's and Flax's), of ``all``, or ``none``; or
            ``headers``, to read those of one format from afar.

    Raises:
        CheckpointError: if there is no such repository, if it is private, restricted or empty, if
            the Hub cannot be reached, or if offline what is needed is not in the cache.

    """
    wanted = parse_repo_id(reference)
    if wanted is None:
        return None
    from huggingface_hub import constants

    what = f"{reference}: is no path here, and cannot be fetched from the Hub"
    with translate_hub_errors(CheckpointError, what, wanted.repo_id):
        return _cached(wanted, weights) if constants.HF_HUB_OFFLINE else _fetch(wanted, weights)


def _cached(wanted: HubRepo, weights: str) -> HubSnapshot:
    """What the cache holds of a repository."""
    from huggingface_hub import snapshot_download

    place = snapshot_download(wanted.repo_id, revision=wanted.revision, local_files_only=True)
    folder = LocalDirectory(Path(place))
    _log.info("%s: offline; commit %s in the cache", wanted, folder.path.name)
    if weights != "none" and not weight_files(folder.names()):
        raise CheckpointError(
            f"{wanted}: the cache does not hold its weights, and the Hub may not be asked in "
            "offline mode",
            remedy=f"Fetch them once with a connection: hf download {wanted.repo_id}",
        )
    return HubSnapshot(wanted, folder.path.name, folder.path, folder)


def _fetch(wanted: HubRepo, weights: str) -> HubSnapshot:
    from huggingface_hub import HfApi

    headers = weights == "headers"
    ask = partial(HfApi().model_info, wanted.repo_id, files_metadata=headers)
    info = retry(lambda: ask(revision=wanted.revision))
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or ()}
    if headers and None in sizes.values():  # a mirror that does not tell
        return _fetch(wanted, "one")
    commit = str(info.sha)
    chosen = auxiliary_files(sizes)
    if weights != "none":
        begun = weight_files(sizes, all_formats=weights == "all")
        if not begun:
            raise CheckpointError(
                f"{wanted}: holds no weight file",
                remedy="Expected one of " + ", ".join(WEIGHT_FILES) + " (or its index), or a "
                "TensorFlow checkpoint.",
            )
        chosen += [name for name in begun if name.endswith(INDEX_SUFFIX) or not headers]
    if not chosen:
        raise CheckpointError(f"{wanted}: holds no configuration")
    _log.info("%s: commit %s; fetching %s", wanted, commit, ", ".join(chosen))
    if not wanted.is_pinned:  # lets the cache remember, for offline use, what the revision means
        _file(wanted.repo_id, chosen[0], wanted.revision)
    get = partial(_file, wanted.repo_id, revision=commit)
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        places = dict(zip(chosen, threads.map(get, chosen), strict=True))
        indexes = {name: path for name, path in places.items() if name.endswith(INDEX_SUFFIX)}
        shards = [each for index in indexes.values() for each in _shards(wanted, index, sizes)]
        if not headers:
            list(threads.map(get, shards))
    name = chosen[0]
    home = Path(str(places[name]).removesuffix(os.sep + name))
    folder = (
        _remote_directory(wanted.repo_id, commit, home, sizes) if headers else LocalDirectory(home)
    )
    return HubSnapshot(wanted, commit, home, folder)


def _file(repo_id: str, name: str, revision: str | None) -> Path:
    """A file of a repository, fetched unless the cache holds it."""
    from huggingface_hub import hf_hub_download

    return Path(retry(lambda: hf_hub_download(repo_id, name, revision=revision)))


def _remote_directory(
    repo_id: str, commit: str, home: Path, sizes: Mapping[str, int | None]
) -> CheckpointDirectory:
    """The repository's files where they are, but for those that were fetched into `home`."""
    from huggingface_hub import hf_hub_url

    known = {name: size for name, size in sizes.items() if size is not None}

    def ranges(name: str) -> HubRanges:
        url = hf_hub_url(repo_id, name, revision=commit)
        return HubRanges(repo_id, name, url, known[name])

    return RemoteDirectory(home, known, ranges)


def _shards(wanted: HubRepo, index: Path, names: Iterable[str]) -> list[str]:
    """The files of the repository that an index names.

    Raises:
        CheckpointError: if some are not there.

    """
    weight_map = read_json_object(index).get("weight_map")
    entries = weight_map.values() if isinstance(weight_map, dict) else ()
    named = sorted({str(name) for name in entries})
    missing = [name for name in named if name not in names]
    if missing:
        raise CheckpointError(
            f"{wanted}: {len(missing)} of {len(named)} shard(s) are not in the repository",
            [Problem(f"is named by {index.name}, but not there", name) for name in missing[:10]],
            remedy="Choose a revision that is whole, as org/name@REVISION.",
        )
    return named

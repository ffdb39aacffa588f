"""Downloading a repository of the Hub into its cache."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from converter.cleanup import thread_pool
from converter.errors import CheckpointError, Problem
from converter.file_names import auxiliary_files, is_index, saved_model_index, weight_files
from converter.safe_json import json_reader
from converter.storage.base import (
    CheckpointDirectory,
    RemoteDirectory,
    Source,
    WeightSelection,
    check_file_name,
    no_weights_error,
    shard_names,
)
from converter.storage.hub_client import (
    HubRangeSource,
    download_file,
    list_repo,
    retry,
    translate_hub_errors,
)
from converter.storage.references import HubRepo, similar_path
from converter.storage.streaming import THREADS, Download

_log = logging.getLogger(__name__)

MIN_STREAMED = 32 << 20
"""Bytes of the weights of a repository below which they are downloaded before they are opened."""
_STREAMED_SUFFIXES = (".safetensors", ".bin")
"""Weight files whose headers take few requests; see `converter.formats.range_reader`."""


@dataclass(frozen=True, kw_only=True)
class HubSource(Source):
    """A repository of the Hub at a commit, in a snapshot directory of the Hub's cache."""

    repository: HubRepo
    commit: str
    """40 hexadecimal digits."""

    @property
    def repo_id(self) -> str:
        """``org/name``."""
        return self.repository.repo_id

    def describe(self) -> dict[str, str]:
        """Return the repository id and the commit."""
        return {"reference": self.repo_id, "revision": self.commit}

    def with_ranges(self, sizes: Mapping[str, int], streamed: Iterable[str]) -> HubSource:
        """Return it with files that are read by ranges; `sizes` has the bytes of each.

        Those in `streamed` are downloaded before their values are read, unless they are in the
        cache.
        """
        from huggingface_hub import hf_hub_url

        path = self.directory

        def ranges(name: str) -> HubRangeSource:
            url = hf_hub_url(self.repo_id, name, revision=self.commit)
            return HubRangeSource(self.repo_id, name, url, sizes[name])

        def download(name: str) -> Download:
            def fetch(stop: threading.Event) -> None:
                action = f"{self.reference}: {name} cannot be downloaded from the Hub"
                with translate_hub_errors(CheckpointError, action, self.repo_id):
                    download_file(self.repo_id, name, self.commit, stop)

            def partial_file() -> tuple[Path, str] | None:
                start = ranges(name).partial_name()
                return (path.parents[1] / "blobs", start) if start else None

            return Download(path / name, sizes[name], fetch, partial_file)

        downloads = {name: download(name) for name in streamed if not (path / name).is_file()}
        return replace(
            self,
            folder=RemoteDirectory(path, sizes, ranges, downloads),
            downloads=tuple(downloads.values()),
        )

    def modified_since(self, timestamp: float, files: Iterable[Path]) -> bool:
        """Return false: the content of a commit does not change."""
        return False


def download_repo(repository: HubRepo, reference: str, weights: WeightSelection) -> HubSource:
    """Return the files of the repository that the user named by `reference`.

    Those that are not in the cache are downloaded. Raise `CheckpointError` if one of them is not
    available.
    """
    from huggingface_hub import constants

    local = "" if reference.startswith("hf://") else "not a local path, and "
    action = f"{reference}: {local}cannot be downloaded from the Hub"
    try:
        with translate_hub_errors(CheckpointError, action, repository.repo_id):
            if constants.HF_HUB_OFFLINE:
                return _open_cached(repository, reference, weights)
            return _download(repository, reference, weights)
    except CheckpointError as error:
        if error.message.startswith(action) and (hint := similar_path(reference)):
            error.remedy = f"{hint}\n{error.remedy}" if error.remedy else hint
        raise


def _open_cached(repository: HubRepo, reference: str, weights: WeightSelection) -> HubSource:
    """Return the snapshot that the cache has of a repository."""
    from huggingface_hub import snapshot_download

    path = snapshot_download(
        repository.repo_id, revision=repository.revision, local_files_only=True
    )
    folder = CheckpointDirectory(Path(path))
    _log.info("%s: offline; commit %s in the cache", repository, folder.path.name)
    has_weights = weight_files(folder.names()) or saved_model_index(folder.holds)
    if weights != "none" and not has_weights:
        raise CheckpointError(
            f"{repository}: its weights are not in the Hub cache, and HF_HUB_OFFLINE=1 is set",
            remedy=f"Download them once with a connection: hf download {repository.repo_id}",
        )
    commit = folder.path.name
    return HubSource(reference=reference, folder=folder, repository=repository, commit=commit)


def _download(repository: HubRepo, reference: str, weights: WeightSelection) -> HubSource:
    ranged = weights in ("headers", "streamed")
    commit, listed = retry(lambda: list_repo(repository, sizes=ranged))
    if ranged and None in listed.values():  # some mirrors do not list sizes
        return _download(repository, reference, "preferred")
    sizes = {name: size or 0 for name, size in listed.items()}

    def read(name: str) -> Any:
        path = download_file(repository.repo_id, name, commit)
        return json_reader(path.parent)(path.name)

    files, weight_names = _select_files(repository, sizes, weights, read)
    _log.info("%s: commit %s; fetching %s", repository, commit, ", ".join(files + weight_names))
    first = (files + weight_names)[0]
    if not repository.is_pinned:  # makes the cache map the revision to its commit, for offline use
        download_file(repository.repo_id, first, repository.revision)
    download = partial(download_file, repository.repo_id, revision=commit)
    with thread_pool(THREADS, stop=None) as threads:
        paths = dict(zip(files, threads.map(download, files), strict=True))
        indexes = [path for name, path in paths.items() if is_index(name)]
        for index in indexes:
            weight_names += _shards(repository, index, sizes)
        nbytes = sum(sizes[name] for name in weight_names)
        streamed = weights == "streamed" and nbytes >= MIN_STREAMED
        streamed = streamed and all(name.endswith(_STREAMED_SUFFIXES) for name in weight_names)
        if not streamed and weights != "headers":
            paths |= zip(weight_names, threads.map(download, weight_names), strict=True)
            ranged = False
    path = paths[first].parents[first.count("/")]
    source = HubSource(
        reference=reference, folder=CheckpointDirectory(path), repository=repository, commit=commit
    )
    return source.with_ranges(sizes, weight_names if streamed else ()) if ranged else source


def _select_files(
    repository: HubRepo, names: Iterable[str], weights: WeightSelection, read: Callable[[str], Any]
) -> tuple[list[str], list[str]]:
    """Return the files to download in any case, and the weight files that no index lists.

    `read` returns the content of a JSON file.
    """
    names = list(names)
    files = auxiliary_files(names)
    selected = weight_files(names, all_formats=weights == "all") if weights != "none" else []
    if weights != "none" and not selected:
        raise no_weights_error(f"hf://{repository}", names, read)
    if not files and not selected:
        raise CheckpointError(f"{repository}: holds no configuration")
    for name in (*files, *selected):
        check_file_name(name, repository)
    files += [name for name in selected if is_index(name)]
    return files, [name for name in selected if not is_index(name)]


def _shards(repository: HubRepo, index: Path, names: Iterable[str]) -> list[str]:
    """Return the shards that an index names, all of which must be in the repository."""
    shards = shard_names(index)
    missing = [name for name in shards if name not in names]
    if missing:
        raise CheckpointError(
            f"{repository}: {len(missing)} of {len(shards)} shard(s) are not in the repository",
            [Problem(f"is named by {index.name}, but missing", name) for name in missing[:10]],
            remedy="Choose a complete revision, as org/name@REVISION.",
        )
    for name in shards:
        check_file_name(name, repository)
    return shards

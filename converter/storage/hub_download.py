"""Downloading a repository of the Hub into its cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
from converter.storage.hub_client import HubRangeSource, list_repo, retry, translate_hub_errors
from converter.storage.references import HubRepo, similar_path

_log = logging.getLogger(__name__)

_THREADS = 4
"""Concurrent downloads."""


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
    from huggingface_hub import hf_hub_url

    headers = weights == "headers"
    commit, listed = retry(lambda: list_repo(repository, sizes=headers))
    if headers and None in listed.values():  # some mirrors do not list sizes
        return _download(repository, reference, "preferred")
    sizes = {name: size or 0 for name, size in listed.items()}

    def read(name: str) -> Any:
        path = _download_file(repository.repo_id, name, commit)
        return json_reader(path.parent)(path.name)

    files = _select_files(repository, sizes, weights, read)
    _log.info("%s: commit %s; fetching %s", repository, commit, ", ".join(files))
    if not repository.is_pinned:  # makes the cache map the revision to its commit, for offline use
        _download_file(repository.repo_id, files[0], repository.revision)
    download = partial(_download_file, repository.repo_id, revision=commit)
    with thread_pool(_THREADS, stop=None) as threads:
        paths = dict(zip(files, threads.map(download, files), strict=True))
        indexes = [path for name, path in paths.items() if is_index(name)]
        shards = [shard for index in indexes for shard in _shards(repository, index, sizes)]
        if not headers:
            list(threads.map(download, shards))
    folder = CheckpointDirectory(paths[files[0]].parents[files[0].count("/")])
    if headers:

        def ranges(name: str) -> HubRangeSource:
            url = hf_hub_url(repository.repo_id, name, revision=commit)
            return HubRangeSource(repository.repo_id, name, url, sizes[name])

        folder = RemoteDirectory(folder.path, sizes, ranges)
    return HubSource(reference=reference, folder=folder, repository=repository, commit=commit)


def _select_files(
    repository: HubRepo, names: Iterable[str], weights: WeightSelection, read: Callable[[str], Any]
) -> list[str]:
    """Return the files to download; shards follow from the indexes among them.

    `read` returns the content of a JSON file.
    """
    names = list(names)
    files = auxiliary_files(names)
    if weights != "none":
        selected = weight_files(names, all_formats=weights == "all")
        if not selected:
            raise no_weights_error(f"hf://{repository}", names, read)
        files += [name for name in selected if is_index(name) or weights != "headers"]
    if not files:
        raise CheckpointError(f"{repository}: holds no configuration")
    for name in files:
        check_file_name(name, repository)
    return files


def _download_file(repo_id: str, name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(retry(lambda: hf_hub_download(repo_id, name, revision=revision)))


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

"""A repository of the Hub as a directory of the cache, holding the files that are needed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from converter.containers.folder import Folder, LocalFolder, RangedFolder
from converter.errors import CheckpointError, Problem
from converter.hub.choice import INDEX, WEIGHT_FILES, small_files, weight_files
from converter.hub.failure import patiently, telling
from converter.hub.ranges import HubRanges
from converter.hub.reference import HubId, hub_id
from converter.jsonfile import read_json_object

_log = logging.getLogger(__name__)

_AT_ONCE = 4
"""Files that are fetched at the same time."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched."""

    id: HubId
    commit: str
    """The commit that the revision means now: 40 hexadecimal digits."""
    directory: Path
    """A snapshot of the Hub's cache."""
    folder: Folder
    """The same with the files that were not fetched, which are read a part at a time."""


def fetched(reference: str | Path, weights: str = "one") -> Fetched | None:
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
    wanted = hub_id(reference)
    if wanted is None:
        return None
    from huggingface_hub import constants

    what = f"{reference}: is no path here, and cannot be fetched from the Hub"
    with telling(CheckpointError, what, wanted.repo_id):
        return _cached(wanted, weights) if constants.HF_HUB_OFFLINE else _fetch(wanted, weights)


def _cached(wanted: HubId, weights: str) -> Fetched:
    """What the cache holds of a repository."""
    from huggingface_hub import snapshot_download

    place = snapshot_download(wanted.repo_id, revision=wanted.revision, local_files_only=True)
    folder = LocalFolder(Path(place))
    _log.info("%s: offline; commit %s in the cache", wanted, folder.path.name)
    if weights != "none" and not weight_files(folder.names()):
        raise CheckpointError(
            f"{wanted}: the cache does not hold its weights, and the Hub may not be asked in "
            "offline mode",
            remedy=f"Fetch them once with a connection: hf download {wanted.repo_id}",
        )
    return Fetched(wanted, folder.path.name, folder.path, folder)


def _fetch(wanted: HubId, weights: str) -> Fetched:
    from huggingface_hub import HfApi

    headers = weights == "headers"
    ask = partial(HfApi().model_info, wanted.repo_id, files_metadata=headers)
    info = patiently(lambda: ask(revision=wanted.revision))
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or ()}
    if headers and None in sizes.values():  # a mirror that does not tell
        return _fetch(wanted, "one")
    commit = str(info.sha)
    chosen = small_files(sizes)
    if weights != "none":
        begun = weight_files(sizes, every=weights == "all")
        if not begun:
            raise CheckpointError(
                f"{wanted}: holds no weight file",
                remedy="Expected one of " + ", ".join(WEIGHT_FILES) + " (or its index), or a "
                "TensorFlow checkpoint.",
            )
        chosen += [name for name in begun if name.endswith(INDEX) or not headers]
    if not chosen:
        raise CheckpointError(f"{wanted}: holds no configuration")
    _log.info("%s: commit %s; fetching %s", wanted, commit, ", ".join(chosen))
    if not wanted.is_pinned:  # lets the cache remember, for offline use, what the revision means
        _file(wanted.repo_id, chosen[0], wanted.revision)
    get = partial(_file, wanted.repo_id, revision=commit)
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        places = dict(zip(chosen, threads.map(get, chosen), strict=True))
        indexes = {name: path for name, path in places.items() if name.endswith(INDEX)}
        shards = [each for index in indexes.values() for each in _shards(wanted, index, sizes)]
        if not headers:
            list(threads.map(get, shards))
    name = chosen[0]
    home = Path(str(places[name]).removesuffix(os.sep + name))
    folder = _afar(wanted.repo_id, commit, home, sizes) if headers else LocalFolder(home)
    return Fetched(wanted, commit, home, folder)


def _file(repo_id: str, name: str, revision: str | None) -> Path:
    """A file of a repository, fetched unless the cache holds it."""
    from huggingface_hub import hf_hub_download

    return Path(patiently(lambda: hf_hub_download(repo_id, name, revision=revision)))


def _afar(repo_id: str, commit: str, home: Path, sizes: Mapping[str, int | None]) -> Folder:
    """The repository's files where they are, but for those that were fetched into `home`."""
    from huggingface_hub import hf_hub_url

    known = {name: size for name, size in sizes.items() if size is not None}

    def ranges(name: str) -> HubRanges:
        url = hf_hub_url(repo_id, name, revision=commit)
        return HubRanges(repo_id, name, url, known[name])

    return RangedFolder(home, known, ranges)


def _shards(wanted: HubId, index: Path, names: Iterable[str]) -> list[str]:
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

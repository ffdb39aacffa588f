"""The one way from a reference to where a checkpoint is read from or written to.

What reads and writes remote checkpoints is imported when it is used.
"""

from __future__ import annotations

from pathlib import Path

from converter.storage.base import OutputTarget, Source, WeightSelection
from converter.storage.local import LocalTarget, local_source, tf_checkpoint_index
from converter.storage.references import local_path, parse_repo_id, parse_url


def open_source(reference: str | Path, weights: WeightSelection = "preferred") -> Source:
    """Return the source at a URL, a Hub id or a path; remote files are downloaded as needed.

    An existing path takes precedence over a Hub id. Raise `CheckpointError` if it is not available,
    `UnsupportedError` if the library for the protocol of a URL is not installed.
    """
    if url := parse_url(reference):
        from converter.storage.url_download import download_url

        return download_url(url, "preferred" if weights == "streamed" else weights)
    repository = parse_repo_id(reference)
    if repository and not tf_checkpoint_index(local_path(reference)):
        from converter.storage.hub_download import download_repo

        return download_repo(repository, str(reference), weights)
    return local_source(reference)


def output_target(output: str | Path) -> OutputTarget:
    """Return the target that `output` names; ``org/name`` is a path, ``hf://org/name`` is not."""
    if str(output).startswith("hf://") and (repository := parse_repo_id(output)):
        from converter.storage.hub_upload import HubTarget

        return HubTarget(repository)
    url = parse_url(output)
    if not url:
        return LocalTarget(local_path(output))
    from converter.storage.url_upload import UrlTarget, not_atomic_error

    if url.protocol == "hf":  # a directory inside a repository
        raise not_atomic_error(url)
    return UrlTarget(url)

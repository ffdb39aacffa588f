"""A source: its configuration, its weight files and the small files beside them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from converter.checkpoint.discovery import (
    find_config,
    find_orbax,
    find_tf_checkpoint,
    tf_checkpoint_index,
)
from converter.checkpoint.shards import ShardIndex
from converter.errors import CheckpointError, FormatError
from converter.file_names import INDEX_SUFFIX, WEIGHT_FILES
from converter.formats.base import Reader, StoredTensor
from converter.formats.directory import CheckpointDirectory, LocalDirectory
from converter.formats.registry import detect_format
from converter.name_ranges import summarize_names
from converter.safe_json import read_config
from converter.storage.file_state import FileState, file_states
from converter.storage.hub_download import HubSnapshot
from converter.storage.sources import resolve_source
from converter.storage.url import path_of, url_of
from converter.storage.url_download import UrlDownload

_log = logging.getLogger(__name__)

_AT_ONCE = 8
"""Files whose beginnings are read at the same time."""


@dataclass(frozen=True)
class Checkpoint:
    """An opened source. Close it, or use it as a context manager."""

    reference: str
    """The source as the user named it."""
    directory: Path
    files: tuple[Path, ...]
    """The weight files in use."""
    sizes: Mapping[Path, int]
    """Bytes of each."""
    file_format: str
    """Name of the container that they are."""
    config: Mapping[str, Any]
    config_path: Path
    tensors: Mapping[str, StoredTensor]
    """Stored name → lazy tensor, over all shards."""
    duplicates: Mapping[str, tuple[StoredTensor, ...]]
    metadata: Mapping[str, str]
    file_states: Mapping[Path, FileState]
    """Every file that was opened → what tells later whether it was changed since."""
    others: tuple[str, ...] = ()
    """Further weight files in the directory that were left alone."""
    hub: HubSnapshot | None = None
    """What was fetched from the Hub, if it came from there."""
    remote: UrlDownload | None = None
    """What was fetched from a URL, if it came from there; gone once this is closed."""
    _stack: ExitStack = field(default_factory=ExitStack, repr=False)

    @property
    def architecture(self) -> str:
        """The ``model_type`` of the configuration.

        Raises:
            CheckpointError: if it states none.

        """
        model_type = self.config.get("model_type")
        if not isinstance(model_type, str) or not model_type:
            raise CheckpointError(
                f"{self.config_path}: states no model_type",
                remedy='Add it, for example "model_type": "bert".',
            )
        return model_type

    def with_config(self, config: Mapping[str, Any]) -> Checkpoint:
        """Return this checkpoint with another config; both share the open files."""
        return replace(self, config=config)

    def close(self) -> None:
        """Let go of the files."""
        self._stack.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def open_config(reference: str | Path, config: str | Path | None = None) -> Checkpoint:
    """Open a checkpoint for its configuration and tokenizer alone; it holds no tensors then.

    Args:
        reference: a directory with ``config.json``, that file, a weight file beside it, or an id
            of the Hub.
        config: the configuration, where it lies elsewhere.

    Raises:
        CheckpointError: if there is no configuration.
        ConfigError: if the configuration is no JSON object.

    """
    origin = resolve_source(reference, weights="none")
    with ExitStack() as stack:
        remote = _register_cleanup(origin, stack)
        path = origin.directory if origin else path_of(reference)
        if remote and remote.file:
            path = remote.file
        directory = path if path.is_dir() else path.parent
        if not path.exists() and not remote:
            raise CheckpointError(f"{reference}: there is no such file or directory")
        beside = path if path.suffix == ".json" else find_config(directory)
        config_path = Path(config) if config is not None else beside
        return Checkpoint(
            reference=str(url_of(reference) or reference),
            directory=directory,
            files=(),
            sizes={},
            file_format="none",
            config=read_config(config_path),
            config_path=config_path,
            tensors={},
            duplicates={},
            metadata={},
            file_states=file_states({config_path}),
            hub=origin if isinstance(origin, HubSnapshot) else None,
            remote=remote,
            _stack=stack.pop_all(),
        )


def _register_cleanup(
    origin: HubSnapshot | UrlDownload | None, stack: ExitStack
) -> UrlDownload | None:
    """What came from a URL, which stays on this machine until `stack` ends."""
    if not isinstance(origin, UrlDownload):
        return None
    stack.push(origin.close)
    return origin


def open_files(
    reference: str | Path, config: str | Path | None = None, *, headers: bool = False
) -> Checkpoint:
    """Open a directory or a single weight file, reading headers only.

    Args:
        reference: a directory with ``config.json`` and weight files, one weight file, or an id of
            the Hub, ``org/name[@revision]``. A path that exists wins.
        config: the configuration, where none lies beside the weights.
        headers: whether only headers will be read: of what lies on the Hub nothing else is fetched.

    Raises:
        CheckpointError: if something is missing or cannot be read.
        FormatError: if a file is damaged, truncated, lying or hostile.
        ConfigError: if the configuration is no JSON object.

    """
    path = path_of(reference)
    origin = (
        None
        if tf_checkpoint_index(path)
        else resolve_source(reference, "headers" if headers else "one")
    )
    with ExitStack() as stack:
        remote = _register_cleanup(origin, stack)
        folder, chosen, others = _locate_weights(reference, path, origin)
        config_path = Path(config) if config is not None else find_config(folder.path)
        if not config_path.is_file():
            raise CheckpointError(f"{config_path}: there is no configuration")
        opened = file_states({config_path, *_local_files(folder, [chosen])})
        raw = read_config(config_path)
        index = ShardIndex.read(chosen, folder) if chosen.name.endswith(INDEX_SUFFIX) else None
        weights = index.shards if index else (chosen,)
        opened |= file_states(_local_files(folder, weights))
        readers, file_format = _open_all(folder, weights, stack)
        if index:
            index.check(readers)
        tensors, duplicates = _merge_tensors(readers)
        files = tuple(file for reader in readers for file in reader.files)
        _log.info(
            "%s: %s as %s, %d tensors%s",
            reference,
            summarize_names(file.name for file in files),
            file_format,
            len(tensors),
            f"; left alone: {', '.join(others)}" if others else "",
        )
        return Checkpoint(
            reference=str(url_of(reference) or reference),
            directory=folder.path,
            files=files,
            sizes={file: folder.size(file) for file in files},
            file_format=file_format,
            config=raw,
            config_path=config_path,
            tensors=tensors,
            duplicates=duplicates,
            metadata=readers[0].metadata,
            # What was taken before opening goes first.
            file_states=file_states(_local_files(folder, files)) | opened,
            others=others,
            hub=origin if isinstance(origin, HubSnapshot) else None,
            remote=remote,
            _stack=stack.pop_all(),
        )


def _locate_weights(
    reference: str | Path, path: Path, origin: HubSnapshot | UrlDownload | None
) -> tuple[CheckpointDirectory, Path, tuple[str, ...]]:
    """The folder of a checkpoint, the weight file or index in it, and the names of others.

    Args:
        reference: as the user gave it.
        path: the path that it is, if it is one.
        origin: what was fetched for it, if it is none.

    """
    if isinstance(origin, UrlDownload) and origin.file:
        return origin.folder, tf_checkpoint_index(origin.file) or origin.file, ()
    if origin or path.is_dir():
        folder = origin.folder if origin else LocalDirectory(path)
        return folder, *_weight_file(folder)
    if chosen := tf_checkpoint_index(path) or (path if path.is_file() else None):
        return LocalDirectory(path.parent), chosen, ()
    raise CheckpointError(
        f"{reference}: there is no such file or directory",
        remedy="Give a directory with config.json and weights, one weight file, a Hub id such as "
        "org/name, or a URL such as s3://bucket/name.",
    )


def _local_files(folder: CheckpointDirectory, files: Iterable[Path]) -> list[Path]:
    """Those of `files` that lie on this machine; others are of one commit and cannot change."""
    return [file for file in files if folder.is_local(file.name)]


def _weight_file(folder: CheckpointDirectory) -> tuple[Path, tuple[str, ...]]:
    """The preferred weight file or index of a directory, and the names of the others."""
    present = [
        name
        for whole in WEIGHT_FILES
        for name in (whole, whole + INDEX_SUFFIX)
        if folder.holds(name)
    ]
    if not present:
        if single := find_tf_checkpoint(folder) or find_orbax(folder.path):
            return single, ()
        raise CheckpointError(
            f"{folder.path}: holds no weight file",
            remedy="Expected one of " + ", ".join(WEIGHT_FILES) + " (or its index), "
            "a TensorFlow or an Orbax checkpoint; a file of another name can be given itself.",
        )
    return folder.path / present[0], tuple(present[1:])


def _open_all(
    folder: CheckpointDirectory, files: Sequence[Path], stack: ExitStack
) -> tuple[list[Reader], str]:
    names = [path.relative_to(folder.path).as_posix() for path in files]  # Orbax' lie further down
    opened = [stack.enter_context(closing(folder.open(name))) for name in names]
    with ThreadPoolExecutor(min(len(opened), _AT_ONCE)) as threads:  # files may be far away
        containers = list(threads.map(detect_format, opened))
    kinds = {file_format.name for file_format in containers}
    if len(kinds) != 1:
        raise FormatError(f"{files[0].parent}: shards of different formats: {sorted(kinds)}")
    readers = [
        stack.enter_context(file_format.open(file))
        for file_format, file in zip(containers, opened, strict=True)
    ]
    return readers, kinds.pop()


def _merge_tensors(
    readers: list[Reader],
) -> tuple[dict[str, StoredTensor], dict[str, tuple[StoredTensor, ...]]]:
    """All tensors of all shards; a name that stands in several shards becomes a duplicate."""
    tensors: dict[str, StoredTensor] = {}
    duplicates: dict[str, tuple[StoredTensor, ...]] = {}
    for reader in readers:
        for name, tensor in reader.tensors.items():
            if name in tensors:
                duplicates[name] = (*duplicates.get(name, ()), tensor)
            else:
                tensors[name] = tensor
        for name, copies in reader.duplicates.items():
            duplicates[name] = (*duplicates.get(name, ()), *copies)
    return tensors, duplicates

"""Opening a checkpoint: its configuration, its weight files and the tensors in them."""

from __future__ import annotations

import fnmatch
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from converter.checkpoint.shards import ShardIndex
from converter.checkpoint.weight_states import leftovers, without_quantization
from converter.cleanup import thread_pool
from converter.display import Displayed
from converter.errors import CheckpointError, ConverterError, FormatError, Problem
from converter.file_names import (
    CONFIG,
    INDEX_SUFFIX,
    SAVED_MODEL,
    SAVED_MODEL_PATH,
    SHARD,
    TF_CHECKPOINT_STATE,
    TF_INDEX_SUFFIX,
    WEIGHT_FILES,
    is_index,
    is_weight_file,
    other_weight_files,
    saved_model_index,
    weight_files,
)
from converter.formats.base import Reader, StoredTensor
from converter.formats.registry import detect_format
from converter.recognition import list_files, recognize_link
from converter.safe_json import json_reader, read_config
from converter.storage.base import CheckpointDirectory, Source, WeightSelection, no_weights_error
from converter.storage.local import FileState, file_states
from converter.storage.references import similar_path
from converter.storage.resolve import open_source
from converter.text import summarize_names

_log = logging.getLogger(__name__)

_THREADS = 8
"""Concurrent reads of headers, which may be remote."""

_ORBAX_METADATA = ("_METADATA", "default/_METADATA", "*/_METADATA", "*/default/_METADATA")
"""A checkpoint manager has one directory per step, and in each, if it saves several items, one
directory per item, of which the train state is called ``default``."""
_ORBAX_DEPTH = 2
"""How far above such a directory the directory of all steps is."""


@dataclass(frozen=True, repr=False)
class Checkpoint(Displayed, AbstractContextManager["Checkpoint"]):
    """An open checkpoint. Close it, or use it as a context manager."""

    source: Source
    config: Mapping[str, Any]
    """Without fields on quantization."""
    config_path: Path
    file_states: Mapping[Path, FileState]
    """The state of every local file when it was opened."""
    has_config: bool = True
    """If false, there is no configuration; `config` is empty."""
    files: tuple[Path, ...] = ()
    """The weight files in use."""
    sizes: Mapping[Path, int] = field(default_factory=dict)
    """Weight file → size in bytes."""
    file_format: str = "none"
    """The format of the weight files."""
    quantization: Mapping[str, Any] = field(default_factory=dict)
    """What the configuration states about the quantization of the weights."""
    tensors: Mapping[str, StoredTensor] = field(default_factory=dict)
    """Stored name → lazy tensor, over all shards."""
    duplicates: Mapping[str, tuple[StoredTensor, ...]] = field(default_factory=dict)
    """Further tensors of the same stored name."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    wrapper: str = ""
    """Key of the state dict in a training checkpoint."""
    ignored: tuple[str, ...] = ()
    """Keys of a training checkpoint that hold tensors outside the state dict."""
    mappings: frozenset[str] = frozenset()
    """Paths of the mappings in a torch file that hold tensors, such as ``weights.``."""
    excluded: Mapping[str, str] = field(default_factory=dict)
    """Stored names of tensors that the user ignores → the reason."""
    imports: tuple[str, ...] = ()
    """What a pickle would import that no state dict needs."""
    others: tuple[str, ...] = ()
    """Further weight files in the directory that are not used."""
    index_notes: tuple[str, ...] = ()
    """How the index differs from the shards."""
    _stack: ExitStack = field(default_factory=ExitStack, repr=False)

    @property
    def reference(self) -> str:
        """The checkpoint as the user named it, without secrets."""
        return self.source.reference

    @property
    def directory(self) -> Path:
        """The local directory with the files other than weights."""
        return self.source.directory

    @property
    def architecture(self) -> str:
        """The ``model_type`` of the configuration."""
        model_type = self.config.get("model_type")
        if not isinstance(model_type, str) or not model_type:
            raise CheckpointError(
                f"{self.config_path}: states no model_type",
                remedy='Add it, for example "model_type": "bert", or --set model_type=bert.',
            )
        return model_type

    @property
    def notes(self) -> list[str]:
        """What is next to the weights or in the configuration, and is not kept."""
        return [*self.index_notes, *leftovers(self.quantization, self.directory)]

    def modified_since(self, timestamp: float) -> bool:
        """Return whether a file may have changed since `timestamp`, in seconds since 1970."""
        return self.source.modified_since(timestamp, self.file_states)

    def with_config(self, config: Mapping[str, Any]) -> Checkpoint:
        """Return this checkpoint with another config; both share the open files."""
        return replace(self, config=config)

    def close(self) -> None:
        """Close the files, and remove temporary ones."""
        self._stack.close()

    def __exit__(self, *details: Any) -> None:
        self._stack.__exit__(*details)


@contextmanager
def _naming_option(flag: str) -> Iterator[None]:
    """Let the remedies of errors in the block name the option that gives a configuration."""
    try:
        yield
    except CheckpointError as error:
        where = f"with {flag} FILE" if flag else "next to the weights"
        error.remedy = error.remedy and error.remedy.replace("with --config FILE", where)
        raise


def open_config(
    reference: str | Path, config: str | Path | None = None, *, option: str = "--config"
) -> Checkpoint:
    """Open a checkpoint without its weights, for the config and the tokenizer.

    `reference` is a directory with ``config.json``, that file, a weight file next to it, a Hub id
    or a URL; `config` is the configuration, if it is in another directory. Errors name the `option`
    that gives it.
    """
    with _naming_option(option), ExitStack() as stack:
        source = stack.enter_context(open_source(reference, "none"))
        if config is None and source.file and source.file.suffix == ".json":
            config = source.file
        path = Path(config) if config is not None else find_config(source.directory)
        states = file_states({path})
        raw, _ = without_quantization(read_config(path))
        return Checkpoint(source, raw, path, states, _stack=stack.pop_all())


def open_files(
    reference: str | Path,
    config: str | Path | None = None,
    *,
    headers: bool = False,
    streamed: bool = False,
    needs_config: bool = True,
    ignore: Sequence[str] = (),
    option: str = "--config",
) -> Checkpoint:
    """Open a checkpoint, reading the headers of its weight files only.

    `reference` is a directory with ``config.json`` and weight files, one weight file, a Hub id
    ``org/name[@revision]``, or a URL; `config` is the configuration, if it is in another directory.
    Errors name the `option` that gives it, if there is one. With `headers` the caller reads no
    values, so that remote weight files need not be downloaded. If `streamed`, values are read while
    the source's `downloads` run. Tensors whose names match a pattern
    of `ignore` are left out. Without a configuration, raise CheckpointError, unless `needs_config`
    is false: then the result has an empty one.
    """
    with _naming_option(option), ExitStack() as stack:
        weights: WeightSelection = "streamed" if streamed else "preferred"
        source = stack.enter_context(open_source(reference, "headers" if headers else weights))
        folder = source.folder
        chosen = WeightFiles((source.file,)) if source.file else find_weights(folder)
        config_path = _config_path(folder, chosen.paths[0], config, needs_config)
        # Recorded before reading, so that a change during the reading is noticed.
        configs = {config_path} if config_path else set()
        states = file_states({*configs, *_local_files(folder, chosen.paths)})
        stated = read_config(config_path) if config_path else {}
        raw, quantization = without_quantization(stated)
        try:
            readers, file_format, index_notes = _open_weights(folder, chosen.paths, states, stack)
        except CheckpointError as error:
            raise _with_alternative(error, folder, chosen.others) from error.__cause__
        others = chosen.others
        tensors, duplicates = _merge_tensors(readers)
        excluded = {
            name: f"by the option ignore: {pattern}"
            for pattern in reversed(ignore)
            for name in fnmatch.filter(tensors, pattern)
        }
        files = tuple(file for reader in readers for file in reader.files)
        _log.info(
            "%s: %s as %s, %d tensors%s",
            reference,
            summarize_names(file.name for file in files),
            file_format,
            len(tensors),
            f"; not used: {', '.join(others)}" if others else "",
        )
        return Checkpoint(
            source=source,
            config=raw,
            quantization=quantization,
            config_path=config_path or folder.path / CONFIG,
            has_config=config_path is not None,
            file_states=file_states(_local_files(folder, files)) | states,
            files=files,
            sizes={file: folder.size(file) for file in files},
            file_format=file_format,
            tensors={name: each for name, each in tensors.items() if name not in excluded},
            duplicates=duplicates,
            metadata=readers[0].metadata,
            wrapper=readers[0].wrapper,
            ignored=readers[0].ignored,
            mappings=readers[0].mappings,
            excluded=excluded,
            imports=readers[0].imports,
            others=others,
            index_notes=index_notes,
            _stack=stack.pop_all(),
        )


def _config_path(
    folder: CheckpointDirectory, weights: Path, config: str | Path | None, required: bool
) -> Path | None:
    """Return the configuration that the user gave, or that is next to the weights.

    If it is not found, raise FormatError if `weights` is not a checkpoint file, or CheckpointError,
    unless it is not `required`.
    """
    if config is not None:
        if not _is_there(Path(config)):
            remedy = similar_path(config) or "Put it there."
            raise CheckpointError(f"{config}: configuration not found", remedy=remedy)
        return Path(config)
    try:
        return find_config(folder.path)
    except CheckpointError:
        if not is_index(weights.name):
            name = weights.relative_to(folder.path).as_posix()
            with closing(folder.open(name)) as file:
                detect_format(file)
        if not required:
            return None
        raise


def _is_there(path: Path) -> bool:
    """Return whether there is a file, or what is in its place; reading it says what that is."""
    return os.path.lexists(path) and not path.is_dir()


def find_config(directory: Path) -> Path:
    """Return the configuration of `directory`: ``config.json``, or as original releases name it.

    That of an Orbax checkpoint or a SavedModel may be in a directory above. Raise CheckpointError,
    which says what the directory holds instead, if there is none.
    """
    if _is_there(directory / CONFIG):
        return directory / CONFIG
    from converter.architectures.registry import ArchitectureRegistry

    dialects = ArchitectureRegistry().conventions.dialects.values()
    names = [name for dialect in dialects for name in dialect.config_files]
    paths = [path / name for path in _config_directories(directory) for name in (CONFIG, *names)]
    paths = [path for path in paths if _is_there(path)]
    if not paths:
        held = list_files(directory)
        readable = weight_files(held) or _ORBAX_METADATA[0] in held
        if not readable and any("/" not in name for name in held):
            raise no_weights_error(directory, held, json_reader(directory))
        raise CheckpointError(
            f"{directory / CONFIG}: configuration not found",
            remedy=f"Give one with --config FILE (looked for {', '.join([CONFIG, *names])}).",
        )
    return paths[0]


def _config_directories(directory: Path) -> list[Path]:
    """Return `directory`, and those above it that may be the checkpoint that it is part of."""
    path = directory.absolute()
    if (path / _ORBAX_METADATA[0]).is_file():  # Orbax replaces it: it holds no other files
        return [directory, *path.parents[:_ORBAX_DEPTH]]
    directories = [directory]
    if (path.parent if path.name == "variables" else path).joinpath(SAVED_MODEL).is_file():
        while SAVED_MODEL_PATH.fullmatch(path.name) and len(directories) <= 3:
            path = path.parent
            directories.append(path)
    return directories


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of a directory that are to be read."""

    paths: tuple[Path, ...]
    """One file, one index, or the shards of a set without an index."""
    others: tuple[str, ...] = ()
    """The names of further files and indexes, which are not used."""


def find_weights(folder: CheckpointDirectory) -> WeightFiles:
    """Return the preferred weight file or index of a directory, or the only one of another name.

    Raise CheckpointError, which says what the directory holds instead, if there is none.
    """
    present = [
        name for file in WEIGHT_FILES for name in (file, file + INDEX_SUFFIX) if folder.holds(name)
    ]
    if present:
        return WeightFiles((folder.path / present[0],), tuple(present[1:]))
    if path := _find_tf_checkpoint(folder) or _find_orbax(folder.path):
        return WeightFiles((path,))
    if name := saved_model_index(folder.holds):
        return WeightFiles((folder.path / name,))
    local = list_files(folder.path)
    for path in (folder.path / name for name in local if "/" not in name and is_weight_file(name)):
        if link := recognize_link(path):
            raise CheckpointError(f"{path}: {link.what}", remedy=link.step)
    others = other_weight_files(folder.names())
    if len(others) == 1:
        _check_shard_set(folder, others[0])
        return WeightFiles(tuple(folder.path / name for name in others[0]))
    raise no_weights_error(folder.path, local, json_reader(folder.path))


def _check_shard_set(folder: CheckpointDirectory, names: Sequence[str]) -> None:
    """Raise CheckpointError if some files of a set of shards without an index are missing."""
    shard = SHARD.fullmatch(names[0])
    count = int(shard["count"]) if shard else len(names)
    if shard and count != len(names):
        present = {int(match["number"]) for name in names if (match := SHARD.fullmatch(name))}
        missing = [number for number in range(1, count + 1) if number not in present]
        raise CheckpointError(
            f"{folder.path}: {count - len(names)} of {count} shards are missing, and their index",
            [
                Problem(
                    "is missing",
                    str(folder.path / f"{shard['stem']}-{n:05}-of-{count:05}{shard['suffix']}"),
                )
                for n in missing[:10]
            ],
            remedy="Download the complete checkpoint.",
        )


def _find_tf_checkpoint(folder: CheckpointDirectory) -> Path | None:
    """Return the index of the TensorFlow checkpoint in `folder`, ``None`` if not found.

    If there are several, that is the one that a ``checkpoint`` file names.
    """
    indexes = sorted(name for name in folder.names() if name.endswith(TF_INDEX_SUFFIX))
    if len(indexes) > 1 and folder.holds(TF_CHECKPOINT_STATE):
        from converter.formats.tensorflow_checkpoint.protobuf import read_checkpoint_state

        newest = read_checkpoint_state(folder.open(TF_CHECKPOINT_STATE))
        indexes = [name for name in indexes if name == newest + TF_INDEX_SUFFIX] or indexes
    if len(indexes) > 1:
        names = ", ".join(name.removesuffix(TF_INDEX_SUFFIX) for name in indexes[:10])
        raise CheckpointError(
            f"{folder.path}: holds {len(indexes)} TensorFlow checkpoints",
            remedy=f"Give one of them: {names}.",
        )
    return folder.path / indexes[0] if indexes else None


def _find_orbax(directory: Path) -> Path | None:
    """Return the metadata file of the Orbax checkpoint in `directory`, ``None`` if not found."""
    for pattern in _ORBAX_METADATA:
        paths = sorted(path for path in directory.glob(pattern) if path.is_file())
        if len(paths) > 1:
            names = [str(path.parent.relative_to(directory)) for path in paths]
            raise CheckpointError(
                f"{directory}: holds {len(paths)} Orbax checkpoints",
                remedy=f"Give one of its directories: {', '.join(names[:10])}; the configuration "
                "with --config FILE.",
            )
        if paths:
            return paths[0]
    return None


def _local_files(folder: CheckpointDirectory, files: Iterable[Path]) -> list[Path]:
    """Return the local files among `files`; remote ones are of one commit and cannot change."""
    return [file for file in files if folder.is_local(folder.name(file))]


def _open_weights(
    folder: CheckpointDirectory,
    paths: Sequence[Path],
    states: dict[Path, FileState],
    stack: ExitStack,
) -> tuple[list[Reader], str, tuple[str, ...]]:
    """Open an index or weight files; return the readers of all shards, their format's name, notes.

    The states of local shards are added to `states`.
    """
    index = ShardIndex.read(paths[0], folder) if is_index(paths[0].name) else None
    weights = index.shards if index else paths
    states |= file_states(_local_files(folder, weights))
    readers, file_format = _open_readers(folder, weights, stack)
    if not index:
        return readers, file_format, ()
    readers, notes = index.select(readers)
    return readers, file_format, notes


def _with_alternative(
    error: CheckpointError, folder: CheckpointDirectory, others: Iterable[str]
) -> CheckpointError:
    """Return the error about the preferred weight file, naming another one that can be read."""
    for name in others:
        with ExitStack() as stack, suppress(ConverterError):
            _open_weights(folder, [folder.path / name], {}, stack)
            step = f"{name} next to it can be read: give {folder.path / name}"
            error.remedy = f"{error.remedy}\nOr: {step}" if error.remedy else step
            break
    return error


def _open_readers(
    folder: CheckpointDirectory, files: Sequence[Path], stack: ExitStack
) -> tuple[list[Reader], str]:
    """Open all shards; return their readers and the name of their format."""
    opened = [stack.enter_context(closing(folder.open(folder.name(path)))) for path in files]
    with thread_pool(min(len(opened), _THREADS)) as threads:
        formats = list(threads.map(detect_format, opened))
    format_names = {file_format.name for file_format in formats}
    if len(format_names) != 1:
        raise FormatError(f"{files[0].parent}: shards of different formats: {sorted(format_names)}")
    readers = [
        stack.enter_context(file_format.open(file))
        for file_format, file in zip(formats, opened, strict=True)
    ]
    return readers, format_names.pop()


def _merge_tensors(
    readers: list[Reader],
) -> tuple[dict[str, StoredTensor], dict[str, tuple[StoredTensor, ...]]]:
    """Return the tensors of all shards; a name in several shards becomes a duplicate."""
    copies: dict[str, list[StoredTensor]] = {}
    for reader in readers:
        for name, tensor in reader.tensors.items():
            copies.setdefault(name, []).append(tensor)
        for name, duplicates in reader.duplicates.items():
            copies.setdefault(name, []).extend(duplicates)
    tensors = {name: first for name, (first, *_) in copies.items()}
    return tensors, {name: tuple(rest) for name, (_, *rest) in copies.items() if rest}

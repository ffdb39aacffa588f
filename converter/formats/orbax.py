"""Orbax checkpoints: directories of arrays that JAX training code writes, read with TensorStore.

``_METADATA`` lists the tree of arrays; each is a Zarr array named by its keys joined with dots, in
a directory of its own or, with the others, in one OCDBT key-value store. TensorStore, which the
``flax`` extra installs, reads both; nothing of Orbax itself is needed, and nothing is executed.

Source: https://orbax.readthedocs.io/en/latest/guides/checkpoint/checkpoint_format.html, and the
files that orbax-checkpoint 0.12.8 writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.errors import ConfigError
from converter.file_names import name_problem
from converter.formats.base import Array, FileFormat, Reader, StoredTensor
from converter.formats.file_handle import MAX_TENSORS, FileHandle, checked_spec, format_error
from converter.optional_imports import import_optional
from converter.safe_json import read_json_object
from converter.tensors import NAMES, TensorSpec

MAX_RATIO = 1000
"""Decoded bytes per byte of the directory; trained weights hardly compress at all."""
_CODECS = frozenset({"zstd", "gzip", "zlib", "bytes", "transpose", "crc32c", "sharding_indexed"})
"""What Orbax has ever written. Not blosc: TensorStore allocates as much memory as a chunk's header
says, and aborts the process if it cannot (measured with 0.1.86)."""
_CACHE_BYTES = 128 << 20
"""Cache of decoded chunks: an array is usually one chunk, of which rows are read in turn."""


@dataclass(frozen=True, eq=False)
class OrbaxTensor(StoredTensor):
    """An array in an Orbax directory."""

    spec: TensorSpec
    path: Path
    number: int
    store: Any
    """TensorStore's handle."""

    @property
    def location(self) -> tuple[object, ...]:
        """The metadata file and the array's number in it."""
        return (str(self.path), self.number)

    def read_into(self, out: Array, axis: int = 0, start: int = 0) -> None:
        """Decode the chunks that hold the values; see `StoredTensor.read_into`."""
        store = self.store
        if out.ndim:
            ranges = [slice(None)] * out.ndim
            ranges[axis] = slice(start, start + out.shape[axis])
            store = store[tuple(ranges)]
        try:
            out[...] = store.read().result()
        except Exception as error:  # TensorStore raises ValueError, OSError and others alike
            raise format_error(
                self.path, "cannot be decoded", self.spec.name, found=_short(error)
            ) from error


def open_orbax(path: Path) -> Reader:
    """List the arrays of the directory of a ``_METADATA``; plain values are omitted.

    Raise FormatError if it is damaged, inconsistent or hostile; UnsupportedError if TensorStore is
    not installed.
    """
    try:
        listing = read_json_object(path)
    except ConfigError as error:
        raise format_error(path, "not a list of arrays", found=error.message) from error
    sizes = {file: file.lstat().st_size for file in _files(path.parent)}
    tensors: dict[str, OrbaxTensor] = {}
    for number, (name, store) in enumerate(_open_arrays(path, listing).items()):
        spec = _checked_array(path, name, store, sum(sizes.values()))
        tensors[name] = OrbaxTensor(spec, path, number, store)
    shared_store = tuple(file for file in sizes if file.parent.name == "d")
    return Reader(path=path, tensors=tensors, close=tensors.clear, other_files=shared_store)


def _open_arrays(path: Path, listing: Mapping[str, Any]) -> dict[str, Any]:
    """Return TensorStore's handle of each array by name; all are opened concurrently."""
    tensorstore = import_optional("tensorstore", "flax", f"{path.parent}: an Orbax checkpoint")
    tree = listing.get("tree_metadata")
    ocdbt = listing.get("use_ocdbt", False) is True
    driver = "zarr3" if listing.get("use_zarr3", False) is True else "zarr"
    if not isinstance(tree, dict) or len(tree) > MAX_TENSORS:
        raise format_error(path, "no tree of arrays", expected="'tree_metadata'")
    stored_all = listing.get("store_array_data_equal_to_fill_value") is True
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": _CACHE_BYTES}})
    opening = {}
    for name, stored in _arrays(path, tree):
        if name in opening:
            raise format_error(path, "duplicate name", name)
        spec: dict[str, Any] = {"driver": driver, "kvstore": _kvstore(path, ocdbt, name, stored)}
        # Otherwise a chunk that is missing reads as zeros. Orbax asks for the same.
        spec["fill_missing_data_reads"] = not stored_all
        opening[name] = tensorstore.open(spec, context=context, open=True, read=True)
    stores = {}
    for name, future in opening.items():
        try:
            stores[name] = future.result()
        except Exception as error:
            raise format_error(
                path, "an array cannot be opened", name, found=_short(error)
            ) from error
    return stores


def _checked_array(path: Path, name: str, store: Any, nbytes: int) -> TensorSpec:
    """Return an array's specification, after checking compression and size.

    `store` is TensorStore's handle; all files of the directory have `nbytes`.
    """
    unknown = sorted(_codecs(store.spec().to_json().get("metadata")) - _CODECS)
    if unknown:
        expected = f"one of {', '.join(sorted(_CODECS))}"
        raise format_error(path, "unsupported compression", name, expected, ", ".join(unknown))
    if store.dtype.name not in NAMES:
        raise format_error(path, "unsupported dtype", name, found=store.dtype.name)
    spec = checked_spec(path, name, store.dtype.name, store.shape)
    chunk = spec.nbytes // max(spec.size, 1)
    for length in store.chunk_layout.read_chunk.shape or ():
        chunk *= length
    if max(spec.nbytes, chunk) > max(1 << 20, MAX_RATIO * nbytes):
        raise format_error(
            path,
            "an array is larger than its files can be",
            name,
            f"at most {MAX_RATIO} times {nbytes} bytes",
            f"{spec.describe()} in chunks of {chunk} bytes",
        )
    return spec


def _arrays(path: Path, tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name of each array, and its name in the store."""
    for entry in tree.values():
        keys = entry.get("key_metadata") if isinstance(entry, dict) else None
        value = entry.get("value_metadata") if isinstance(entry, dict) else None
        if not isinstance(keys, list) or not isinstance(value, dict):
            raise format_error(path, "an entry has no keys or no value", str(entry)[:80])
        parts = [key.get("key") if isinstance(key, dict) else None for key in keys]
        texts = [str(part) for part in parts if isinstance(part, str | int)]
        stored = ".".join(texts)
        plain = stored.isprintable() and "/" not in stored and stored.strip(".")
        if len(texts) != len(parts) or not plain:
            raise format_error(path, "an array's keys are not plain names", stored[:80])
        if value.get("value_type") not in ("None", "string") and not value.get("skip_deserialize"):
            yield "/".join(texts), stored


def _kvstore(metadata: Path, ocdbt: bool, name: str, stored: str) -> dict[str, Any]:
    """Return TensorStore's specification of an array's storage."""
    directory = metadata.parent.resolve()
    if ocdbt:  # a URL, below which TensorStore follows no ".."
        return {"driver": "ocdbt", "base": f"{directory.as_uri()}/", "path": f"{stored}/"}
    if what := name_problem(stored):
        raise format_error(metadata, f"an array is in a directory whose name {what}", name)
    return {"driver": "file", "path": f"{(directory / stored).as_posix()}/"}


def _files(directory: Path) -> list[Path]:
    """Return every file of the directory.

    Raise FormatError if a link leaves it, or TensorStore would wait for a pipe or read a device.
    """
    files = []
    for number, path in enumerate(directory.rglob("*")):
        if number > 8 * MAX_TENSORS:
            raise format_error(directory, "too many files")
        if path.is_symlink() and not path.resolve().is_relative_to(directory.resolve()):
            raise format_error(path, "a link that leaves the directory", found=str(path.resolve()))
        if path.is_file():
            files.append(path)
        elif path.exists() and not path.is_dir():
            raise format_error(path, "neither a file nor a directory")
    return sorted(files)


def _codecs(metadata: object) -> set[str]:
    """Return the names of all codecs in a Zarr array's metadata, including those of shards."""
    if isinstance(metadata, list):
        return {name for item in metadata for name in _codecs(item)}
    names = set()
    for key, value in metadata.items() if isinstance(metadata, dict) else ():
        if key in ("compressor", "codecs", "index_codecs", "filters", "configuration"):
            names |= _codecs(value)
        elif key in ("id", "name"):
            names.add(str(value))
    return names


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


class OrbaxFormat(FileFormat):
    """Orbax directories, opened by their ``_METADATA``; read-only."""

    name = "orbax"
    dtypes: frozenset[str] = frozenset()

    def matches(self, file: FileHandle, head: bytes) -> bool:
        """Return whether the file starts with the JSON of a tree of arrays."""
        return head.replace(b" ", b"").startswith(b'{"tree_metadata"')

    def open(self, file: FileHandle) -> Reader:
        """List the arrays of the directory that `file` is in, which must be local."""
        file.close()
        return open_orbax(file.path)


FORMAT: FileFormat = OrbaxFormat()

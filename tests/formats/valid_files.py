"""Valid checkpoints of every format, in every form that its reader supports, to be damaged."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import safetensors.numpy
from ml_dtypes import bfloat16

from converter.formats.file_handle import LocalFile
from converter.formats.registry import FORMATS, get_format
from converter.formats.tensorflow_checkpoint.partitioned import slice_key
from converter.tensors import TensorSpec
from tests.formats import tensorflow_checkpoints
from tests.formats.mutations import ValidCheckpoint
from tests.formats.writing import DIRECTORIES, model, values, write


def valid_checkpoints(name: str, directory: Path) -> list[ValidCheckpoint]:
    """Write valid checkpoints of the format called `name` into `directory`.

    Raises:
        ImportError: if the library that writes them is not installed.

    """
    file_format = get_format(name)
    checkpoints = []
    if name not in DIRECTORIES:
        path = directory / "model"
        write(file_format, path, {spec: values(spec) for spec in model(file_format)})
        checkpoints.append(
            ValidCheckpoint.of(file_format, path, *sorted(directory.glob("model.*")))
        )
    for make in OTHER_FORMS.get(name, ()):
        below = directory / make.__name__
        below.mkdir()
        checkpoints += [ValidCheckpoint.of(file_format, *files) for files in make(below)]
    assert checkpoints and set(FORMATS) >= set(OTHER_FORMS)
    return checkpoints


Files = Iterator[tuple[Path, ...]]


def _torch_saved(directory: Path) -> Files:
    """Write with torch: an archive with other objects than tensors, and the legacy stream."""
    import torch

    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    state = {"a": base, "b": base.T, "c": torch.ones(3, dtype=torch.bfloat16)}
    torch.save({"model": state, "args": argparse.Namespace(x=1)}, directory / "archive")
    torch.save(state, directory / "legacy", _use_new_zipfile_serialization=False)
    signed = {"a": torch._neg_view(base).T, "b": torch.ones(3, dtype=torch.complex64).conj()}
    for tensor in signed.values():
        tensor.note = state["a"].shape  # makes torch write _rebuild_from_type_v2 and torch.Size
    torch.save(signed, directory / "signed")
    torch.save(signed, directory / "signed-legacy", _use_new_zipfile_serialization=False)
    array = base.numpy()
    arrays = {"a": array, "b": array.T, "c": array.astype(">f8"), "d": np.ones(3, bfloat16)}
    torch.save(arrays, directory / "arrays")
    torch.save(arrays, directory / "arrays-5", pickle_protocol=5)
    for name in ("archive", "legacy", "signed", "signed-legacy", "arrays", "arrays-5"):
        yield (directory / name,)


def _long_safetensors_header(directory: Path) -> Files:
    """Write names and metadata of all kinds of characters."""
    array = values(TensorSpec("a", "float32", (5, 4)))
    names = ("ü" * 99, "😀" * 9, 'quoted "\\', "\n")
    metadata = {"large": "😀" * 5000, "quoted": "\\" * 99 + '"'}
    safetensors.numpy.save_file(dict.fromkeys(names, array), directory / "model", metadata)
    yield (directory / "model",)


FILTERS = [
    {"compression": compression, "shuffle": shuffle, "fletcher32": checksum}
    for compression in (None, "gzip", "lzf")
    for shuffle in (False, True)
    for checksum in (False, True)
]
"""Every combination of HDF5 filters that h5py writes, as options of ``create_dataset``."""


def write_chunked(path: Path, shape: tuple[int, ...] = (24, 16), **options: Any) -> list[str]:
    """Write chunked datasets with every combination of filters; return their variables' names."""
    names = [f"m/{chr(ord('a') + number)}:0" for number in range(len(FILTERS))]
    with h5py.File(path, "w", **options) as file:
        file.attrs["layer_names"] = [b"layer"]
        group = file.create_group("layer")
        group.attrs["weight_names"] = [name.encode() for name in names]
        array = np.repeat(values(TensorSpec("a", "float32", shape)), 2, axis=1)
        for name, filters in zip(names, FILTERS, strict=True):
            group.create_dataset(name, data=array, chunks=(8, 16), **filters)
    return names


def _chunked_hdf5(directory: Path) -> Files:
    write_chunked(directory / "model.h5")
    yield (directory / "model.h5",)


def _newest_chunked_hdf5(directory: Path) -> Files:
    write_chunked(directory / "model.h5", libver="latest")
    yield (directory / "model.h5",)


def _newest_hdf5(directory: Path) -> Files:
    with h5py.File(directory / "model.h5", "w", libver="latest") as file:
        file.attrs["layer_names"] = ["layer"]
        group = file.create_group("layer")
        group.attrs["weight_names"] = ["m/a:0"]
        group.create_dataset("m/a:0", data=values(TensorSpec("a", "float32", (5, 4))))
    yield (directory / "model.h5",)


def _chunked_msgpack(directory: Path) -> Files:
    import msgpack

    array = values(TensorSpec("a", "float32", (5, 4)))
    parts = {str(i): _ext(array.reshape(-1)[i * 8 : i * 8 + 8]) for i in range(3)}
    chunked = {"__msgpack_chunked_array__": True, "shape": {"0": 5, "1": 4}, "chunks": parts}
    tree = {"params": {"a": chunked, "b": {"c": _ext(array)}}, "step": 7}
    (directory / "model").write_bytes(msgpack.packb(tree))
    yield (directory / "model",)


def _ext(array: np.ndarray[Any, Any]) -> object:
    import msgpack

    inner = msgpack.packb((array.shape, array.dtype.name, array.tobytes()))
    return msgpack.ExtType(1, inner)


def _sharded_checkpoint(directory: Path) -> Files:
    array = values(TensorSpec("a", "float32", (5, 4)))
    raw = array.tobytes()
    entries = [
        (
            b"",
            tensorflow_checkpoints.number(1, 2)
            + tensorflow_checkpoints.message(3, tensorflow_checkpoints.number(1, 1)),
        ),
        (b"model/a", tensorflow_checkpoints.entry(1, (5, 4), 0, 0, len(raw))),
        (b"model/b", tensorflow_checkpoints.entry(1, (5, 4), 1, 4, len(raw))),
    ]
    tensorflow_checkpoints.write_parts(directory / "model.index", entries, [raw, b"gap." + raw])
    yield (directory / "model.index", *sorted(directory.glob("model.data*")))


def _object_checkpoint(directory: Path) -> Files:
    array = values(TensorSpec("a", "float32", (5, 4)))
    key = "b/.OPTIMIZER_SLOT/opt/m"
    nodes = [
        tensorflow_checkpoints.node({"a": 1, "opt": 2}),
        tensorflow_checkpoints.node(variable=("model/a", "a/.ATTRIBUTES/VARIABLE_VALUE")),
        tensorflow_checkpoints.node({"self": 2}, slots=[3]),
        tensorflow_checkpoints.node(variable=("a/m", f"{key}/.ATTRIBUTES/VARIABLE_VALUE")),
    ]
    arrays = {"a": array, key: array}
    tensorflow_checkpoints.write_objects(directory / "model.index", arrays, nodes)
    yield (directory / "model.index", *directory.glob("model.data*"))


def _grid_checkpoint(directory: Path) -> Files:
    """Write a variable in parts along two axes."""
    array = values(TensorSpec("a", "float32", (5, 4)))
    parts = [[(row, rows), (at, 2)] for row, rows in ((0, 2), (2, 3)) for at in (0, 2)]
    listed = tensorflow_checkpoints.slices(parts)
    entries = [(b"a", tensorflow_checkpoints.entry(1, array.shape, more=listed))]
    data = b""
    for part in parts:
        (row, rows), (at, columns) = part
        raw = array[row : row + rows, at : at + columns].tobytes()
        place = tensorflow_checkpoints.entry(1, (rows, columns), 0, len(data), len(raw))
        entries.append((slice_key("a", part), place))
        data += raw
    header = (b"", tensorflow_checkpoints.HEADER)
    path = directory / "model.index"
    tensorflow_checkpoints.write_parts(path, [header, *sorted(entries)], [data])
    yield (path, *directory.glob("model.data*"))


def _orbax(directory: Path) -> Files:
    """Write the two forms of Orbax with TensorStore."""
    import tensorstore

    for ocdbt in (False, True):
        place = directory / f"ocdbt {ocdbt}".replace(" ", "-").lower()
        place.mkdir()
        tree = {}
        for name in ("a", "b"):
            array = values(TensorSpec(name, "float32", (5, 4)))
            form = {"driver": "ocdbt", "base": f"file://{place}/", "path": f"params.{name}/"}
            if not ocdbt:
                form = {"driver": "file", "path": f"{place}/params.{name}/"}
            compressor = {"id": "zstd", "level": 1} if name == "a" else None
            layout = {"dtype": "<f4", "shape": [5, 4], "chunks": [3, 4], "compressor": compressor}
            spec = {"driver": "zarr", "kvstore": form, "metadata": layout}
            tensorstore.open(spec, create=True).result().write(array).result()
            keys = [{"key": key, "key_type": 2} for key in ("params", name)]
            value = {"value_type": "jax.Array", "skip_deserialize": False}
            tree[f"('params', '{name}')"] = {"key_metadata": keys, "value_metadata": value}
        listing = {"tree_metadata": tree, "use_ocdbt": ocdbt, "use_zarr3": False}
        (place / "_METADATA").write_text(json.dumps(listing))
        files = [path for path in sorted(place.rglob("*")) if path.is_file()]
        yield (place / "_METADATA", *(path for path in files if path.name != "_METADATA"))


OTHER_FORMS: Mapping[str, tuple[Callable[[Path], Files], ...]] = {
    "safetensors": (_long_safetensors_header,),
    "torch": (_torch_saved,),
    "keras-hdf5": (_chunked_hdf5, _newest_chunked_hdf5, _newest_hdf5),
    "flax-msgpack": (_chunked_msgpack,),
    "tensorflow-checkpoint": (_sharded_checkpoint, _object_checkpoint, _grid_checkpoint),
    "orbax": (_orbax,),
}
"""Format → writers of forms that the package does not write."""


def reads(checkpoint: ValidCheckpoint) -> bool:
    """Return whether a checkpoint can be read and has tensors."""
    with checkpoint.file_format.open(LocalFile(checkpoint.entry)) as reader:
        return bool([tensor.read() for tensor in reader.tensors.values()])

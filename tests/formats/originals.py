"""Good checkpoints of every container, in every form that its reader knows, to be spoilt."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from converter.formats.base import FileFormat
from converter.formats.file_handle import LocalFile
from converter.formats.registry import FORMATS, get_format
from converter.tensors import TensorSpec
from tests.formats import bundles
from tests.formats.fuzzing import Original
from tests.formats.writing import model, values, write


def originals(name: str, directory: Path) -> list[Original]:
    """Good checkpoints of the container called `name`, in `directory`.

    Raises:
        ImportError: if what writes them is not installed.

    """
    file_format = get_format(name)
    found = []
    if file_format.dtypes:  # else it is a directory, which nothing here writes
        path = directory / "model"
        write(file_format, path, {spec: values(spec) for spec in model(file_format)})
        found.append(Original.of(file_format, path, *sorted(directory.glob("model.*"))))
    for make in FURTHER.get(name, ()):
        below = directory / make.__name__
        below.mkdir()
        found += [Original.of(file_format, *files) for files in make(below)]
    assert found and set(FORMATS) >= set(FURTHER)
    return found


Files = Iterator[tuple[Path, ...]]


def _torch_saved(directory: Path) -> Files:
    """What torch itself writes: the archive with more than tensors in it, and the old stream."""
    import torch

    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    state = {"a": base, "b": base.T, "c": torch.ones(3, dtype=torch.bfloat16)}
    torch.save({"model": state, "args": argparse.Namespace(x=1)}, directory / "archive")
    torch.save(state, directory / "legacy", _use_new_zipfile_serialization=False)
    yield (directory / "archive",)
    yield (directory / "legacy",)


def _compressed_hdf5(directory: Path) -> Files:
    with h5py.File(directory / "model.h5", "w") as file:
        file.attrs["layer_names"] = [b"layer"]
        group = file.create_group("layer")
        group.attrs["weight_names"] = [b"m/a:0", b"m/b:0", b"m/c:0"]
        array = values(TensorSpec("a", "float32", (24, 16)))
        group.create_dataset("m/a:0", data=array, chunks=(8, 16), compression="gzip", shuffle=True)
        group.create_dataset("m/b:0", data=array, chunks=(24, 4), fletcher32=True)
        group.create_dataset("m/c:0", data=array, chunks=(24, 16), compression="lzf")
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


def _sharded_bundle(directory: Path) -> Files:
    array = values(TensorSpec("a", "float32", (5, 4)))
    raw = array.tobytes()
    entries = [
        (b"", bundles.number(1, 2) + bundles.message(3, bundles.number(1, 1))),
        (b"model/a", bundles.entry(1, (5, 4), 0, 0, len(raw))),
        (b"model/b", bundles.entry(1, (5, 4), 1, 4, len(raw))),
    ]
    bundles.write_parts(directory / "model.index", entries, [raw, b"gap." + raw])
    yield (directory / "model.index", *sorted(directory.glob("model.data*")))


def _orbax(directory: Path) -> Files:
    """The two forms of Orbax, laid out with TensorStore."""
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
            wanted = {"driver": "zarr", "kvstore": form, "metadata": layout}
            tensorstore.open(wanted, create=True).result().write(array).result()
            keys = [{"key": key, "key_type": 2} for key in ("params", name)]
            value = {"value_type": "jax.Array", "skip_deserialize": False}
            tree[f"('params', '{name}')"] = {"key_metadata": keys, "value_metadata": value}
        listing = {"tree_metadata": tree, "use_ocdbt": ocdbt, "use_zarr3": False}
        (place / "_METADATA").write_text(json.dumps(listing))
        files = [path for path in sorted(place.rglob("*")) if path.is_file()]
        yield (place / "_METADATA", *(path for path in files if path.name != "_METADATA"))


FURTHER: Mapping[str, tuple[Callable[[Path], Files], ...]] = {
    "torch": (_torch_saved,),
    "keras-hdf5": (_compressed_hdf5, _newest_hdf5),
    "flax-msgpack": (_chunked_msgpack,),
    "tensorflow-checkpoint": (_sharded_bundle,),
    "orbax": (_orbax,),
}
"""Container → what writes forms of it that its own writer does not."""


def good(file_format: FileFormat, original: Original) -> bool:
    """Whether an original reads as it is."""
    with file_format.open(LocalFile(original.entry)) as reader:
        return bool([tensor.read() for tensor in reader.tensors.values()])

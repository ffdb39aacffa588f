"""Writing of ``tf_model.h5``, preallocated with the bytes of every tensor at a known offset."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from converter.formats.base import FileSpec, PreallocatedFile, Segment
from converter.formats.keras_hdf5.objects import MODEL_LEVEL
from converter.tensors import TensorSpec, numpy_dtype

KERAS_VERSION = "2.20.1"
"""The release of tf-keras whose layout is written."""
ATTRIBUTE_LIMIT = 64512
"""Bytes of an attribute above which Keras splits it (``HDF5_OBJECT_HEADER_LIMIT``)."""
_METADATA_PER_TENSOR = 2048
"""Estimate for group, link and header of a tensor; keeps them together before the values."""
_MAX_METADATA_BLOCK = 16 << 20


def create_hdf5(spec: FileSpec) -> PreallocatedFile:
    """Create ``tf_model.h5`` or a shard of it; aliases become hard links.

    Tensors are named without the scope, such as ``encoder/bert/…/kernel:0``. Metadata:

    - ``scope`` is put before each name (default ``model``);
    - ``layout`` is ``layers`` (default), or ``flat`` for a shard.

    A layer of ``repeated`` lists tensors of other layers too: a stand-alone TF model with a head
    reports embeddings as missing unless its head lists them. Raise ValueError for names or metadata
    that the layout cannot express; OSError if the file cannot be created.
    """
    tensors, aliases, metadata = spec.tensors, spec.aliases, spec.metadata or {}
    scope, layout = metadata.get("scope", "model"), metadata.get("layout", "layers")
    if layout not in ("layers", "flat") or not scope:
        raise ValueError(f"layout {layout!r} or scope {scope!r} cannot be written")
    names = [*(tensor.name for tensor in tensors), *aliases]
    split = _split_flat if layout == "flat" else _split_by_layer
    layer_and_weight = {name: split(name, scope) for name in names}
    paths = {name: "/".join(filter(None, pair)) for name, pair in layer_and_weight.items()}
    links = {paths[alias]: paths[name] for alias, name in aliases.items()}
    layers: dict[str, list[str]] = {}
    for layer, weight in layer_and_weight.values():
        layers.setdefault(layer, []).append(weight)
    for layer, repeated in spec.repeated.items():
        for name in repeated:
            weight = layer_and_weight[name][1]
            layers.setdefault(layer, []).append(weight)
            links[f"{layer}/{weight}"] = paths[name]
    check_paths([*(paths[tensor.name] for tensor in tensors), *links])
    segments: dict[str, tuple[Segment, ...]] = {}
    with new_file(spec.path, len(names) + len(links)) as file:
        if layout == "flat":
            file.names("/", "layer_names", layers.get("", []))
        else:
            file.names("/", "layer_names", [layer for layer in layers if layer != MODEL_LEVEL])
            file.text("backend", "tensorflow")
            file.text("keras_version", KERAS_VERSION)
        for tensor in tensors:
            segments[tensor.name] = file.dataset(paths[tensor.name], tensor)
        for link, target in links.items():
            file.link(link, target)
        if layout == "layers":
            for layer, weights in {**layers, MODEL_LEVEL: layers.get(MODEL_LEVEL, [])}.items():
                file.names(layer, "weight_names", weights)
    return PreallocatedFile(spec.path, segments)


def _split_by_layer(name: str, scope: str) -> tuple[str, str]:
    """Return the layer's group and the variable's name.

    A layer has the name of its variables' first component, but for shared embeddings: BART's
    ``model.shared/…`` belongs to the layer ``model``, LED's ``led.shared/…`` to ``led``. A name
    of one component has no scope: ``final_logits_bias:0`` is a layer of its own, and CvT's
    ``cvt.encoder.stages.2.cls_token:0`` belongs to ``cvt``. After ``//`` follows the
    complete name of a variable that does not have the scope of the model.
    """
    first, slash, _ = name.partition("/")
    _, other, variable = name.partition("//")
    if other:
        return first, variable
    if not slash:
        return name.removesuffix(":0").partition(".")[0], name
    return first.removesuffix(".shared"), f"{scope}/{name}"


def _split_flat(name: str, scope: str) -> tuple[str, str]:
    """As `_split_by_layer` for a shard: no group, and a scope only where the loader keeps it."""
    _, other, variable = name.partition("//")
    if other:
        return "", variable.partition("/")[2] or variable
    if "model." in name and "/" in name:
        return "", f"{name.partition('/')[0]}/{name}"
    return "", name


class Hdf5Builder:
    """An HDF5 file under construction, readable by HDF5 1.8 and reproducible byte for byte."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._datasets = h5p.create(h5p.DATASET_CREATE)
        self._datasets.set_layout(h5d.CONTIGUOUS)
        self._datasets.set_alloc_time(h5d.ALLOC_TIME_EARLY)  # the offset is known at once
        self._datasets.set_fill_time(h5d.FILL_TIME_NEVER)  # and no zeros are written
        self._datasets.set_obj_track_times(False)
        self._links = h5p.create(h5p.LINK_CREATE)
        self._links.set_create_intermediate_group(True)
        self._links.set_char_encoding(h5t.CSET_UTF8)

    def dataset(self, path: str, spec: TensorSpec) -> tuple[Segment, ...]:
        """Create a dataset, and return the segments of its bytes."""
        dtype = h5t.py_create(numpy_dtype(spec.dtype).newbyteorder("<"), logical=True)
        space = h5s.create_simple(spec.shape) if spec.shape else h5s.create(h5s.SCALAR)
        dataset = h5d.create(
            self._file.id, path.encode(), dtype, space, self._datasets, self._links
        )
        if spec.nbytes == 0:
            return ()
        return (Segment(0, int(dataset.get_offset()), spec.nbytes),)

    def link(self, path: str, target: str) -> None:
        """Create a hard link at `path` to the dataset at `target`."""
        root = self._file.id
        root.links.create_hard(path.encode(), root, target.encode(), lcpl=self._links)

    def names(self, group: str, attribute: str, names: Sequence[str]) -> None:
        """Store a list of names as Keras does: in one attribute, or split evenly over several."""
        values: Any = np.asarray([name.encode() for name in names])
        owner = self._file.require_group(group).attrs
        count = 1
        parts = [values]
        while any(part.nbytes > ATTRIBUTE_LIMIT for part in parts):
            count += 1
            parts = np.array_split(values, count)
        if count == 1:
            owner.create(attribute, values)
            return
        for index, part in enumerate(parts):
            owner.create(f"{attribute}{index}", part)

    def text(self, attribute: str, value: str) -> None:
        """Store a string attribute at the root."""
        self._file.attrs.create(attribute, np.bytes_(value))


_ERRNO = re.compile(r"\berrno = (\d+)")
"""In the HDF5 library's messages, the error of the system."""


@contextmanager
def new_file(path: Path, tensors: int) -> Iterator[Hdf5Builder]:
    """Create the file at `path`, to be filled in the ``with`` block with about `tensors` tensors.

    Raise OSError if it exists or cannot be written; then nothing is left.
    """
    path.open("xb").close()
    try:
        block = min(_METADATA_PER_TENSOR * (tensors + 1), _MAX_METADATA_BLOCK)
        with h5py.File(str(path), "w", libver=("earliest", "v108"), meta_block_size=block) as file:
            yield Hdf5Builder(file)
    except BaseException as error:
        path.unlink()
        if number := _ERRNO.search(str(error)):  # h5py raises RuntimeError for a full disk
            code = int(number[1])
            raise OSError(code, os.strerror(code)) from error
        raise


def check_paths(paths: Iterable[str]) -> None:
    """Raise ValueError if a path is another's prefix, a duplicate, or not valid."""
    seen: set[str] = set()
    parents: set[str] = set()
    for path in paths:
        parts = path.split("/")
        if any(part in ("", ".") for part in parts) or "\0" in path:
            raise ValueError(f"{path!r} is not a valid path in HDF5")
        if len(path.encode()) > ATTRIBUTE_LIMIT:
            raise ValueError(f"{path[:100]!r}… is too long for an attribute")
        if path in seen:
            raise ValueError(f"{path}: duplicate path")
        seen.add(path)
        parents.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    for path in sorted(seen & parents):
        raise ValueError(f"{path} is both a tensor and a part of another's name")

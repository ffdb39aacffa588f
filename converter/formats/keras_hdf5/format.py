"""``tf_model.h5``: the weights of a Keras model by layer, as transformers' TF classes keep them.

A root attribute ``layer_names`` lists groups; each group's ``weight_names`` lists its datasets by
full variable name. Loading drops the first component of a variable's name, an instance name that
means nothing (``tf_bert_model/bert/…/kernel:0`` is ``bert/…/kernel:0``), and so does this module.

A shard of a larger model is flat: ``layer_names`` lists datasets, by names that have lost their
first component already, except those with ``model.`` in them.

Source: ``modeling_tf_utils.py`` of transformers 4.57.6, ``hdf5_format.py`` of tf-keras 2.20.1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from converter.formats.base import FileFormat, FileSpec, PreallocatedFile, Reader, Segment
from converter.formats.files import FileHandle
from converter.formats.keras_hdf5.structures import DTYPES, SIGNATURE

KERAS_VERSION = "2.20.1"
"""The release of tf-keras whose layout is written."""


class KerasHdf5(FileFormat):
    """The container of transformers' TensorFlow files."""

    name = "keras-hdf5"
    dtypes = DTYPES
    shares = True

    def matches(self, file: FileHandle, head: bytes) -> bool:
        """Whether the file starts with HDF5's signature."""
        return head.startswith(SIGNATURE)

    def open(self, file: FileHandle) -> Reader:
        """List the file without reading values; see `Container.open`."""
        from converter.formats.keras_hdf5.reader import KerasReader

        return KerasReader(file)

    def preallocate(self, wanted: FileSpec) -> PreallocatedFile:
        """Create the file; see `Container.lay_out`.

        Tensors are named without the scope, such as ``encoder/bert/…/kernel:0``. Of the metadata,
        ``scope`` is put before each name (default ``model``); ``layout`` is ``layers`` (default) or
        ``flat`` for a shard; ``shared`` is a JSON object of layers to the names that they list, too
        (as hard links). A stand-alone TF model with a head reports embeddings as missing that its
        head's layer does not list. Aliases become hard links.
        """
        from converter.formats.keras_hdf5.writer import Hdf5Output, check_paths, new_file

        path, tensors = wanted.path, wanted.tensors
        metadata, aliases = wanted.metadata or {}, wanted.aliases
        scope, layout = metadata.get("scope", "model"), metadata.get("layout", "layers")
        if layout not in ("layers", "flat") or not scope:
            raise ValueError(f"layout {layout!r} or scope {scope!r} cannot be written")
        names = [*(spec.name for spec in tensors), *aliases]
        place = _flat_place if layout == "flat" else _layer_place
        places = {name: place(name, scope) for name in names}
        paths = {name: "/".join(filter(None, place)) for name, place in places.items()}
        links = {paths[alias]: paths[name] for alias, name in aliases.items()}
        layers: dict[str, list[str]] = {}
        for layer, weight in places.values():
            layers.setdefault(layer, []).append(weight)
        for layer, name in _shared(metadata):
            weight = places[name][1]
            layers.setdefault(layer, []).append(weight)
            links[f"{layer}/{weight}"] = paths[name]
        check_paths([*(paths[spec.name] for spec in tensors), *links])
        segments: dict[str, tuple[Segment, ...]] = {}
        with new_file(path, len(names) + len(links)) as file:
            if layout == "flat":
                file.names("/", "layer_names", layers.get("", []))
            else:
                file.names("/", "layer_names", list(layers))
                file.text("backend", "tensorflow")
                file.text("keras_version", KERAS_VERSION)
            for spec in tensors:
                segments[spec.name] = file.dataset(paths[spec.name], spec)
            for link, target in links.items():
                file.link(link, target)
            if layout == "layers":
                for layer, weights in layers.items():
                    file.names(layer, "weight_names", weights)
                file.group("top_level_model_weights")
                file.names("top_level_model_weights", "weight_names", [])
        return Hdf5Output(path, segments)


def _layer_place(name: str, scope: str) -> tuple[str, str]:
    """The layer's group and the variable's name.

    A layer is called as the first component of its variables' names, but for BART's
    ``model.shared/…``, which belongs to the layer ``model``. A variable without a layer, such as
    ``final_logits_bias:0``, has no scope and is a layer by itself.
    """
    first, slash, _ = name.partition("/")
    if not slash:
        return name.removesuffix(":0"), name
    return "model" if first.startswith("model.") else first, f"{scope}/{name}"


def _flat_place(name: str, scope: str) -> tuple[str, str]:
    """As `_layer_place` for a shard: no group, and a scope only where the loader keeps it."""
    if "model." in name and "/" in name:
        return "", f"{name.partition('/')[0]}/{name}"
    return "", name


def _shared(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    """What ``shared`` says: pairs of a layer and a name that it lists, too."""
    shared = json.loads(metadata.get("shared", "{}"))
    return [(layer, name) for layer, names in shared.items() for name in names]


FORMAT: FileFormat = KerasHdf5()

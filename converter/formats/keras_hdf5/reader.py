"""Reading of ``tf_model.h5``, complete or a shard; see `converter.formats.keras_hdf5`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

from converter.formats.base import Reader, StoredTensor
from converter.formats.file_handle import MAX_TENSORS, FileHandle
from converter.formats.keras_hdf5.objects import Hdf5Objects

MAX_NAME_BYTES = 64 << 20
"""Bytes of all names together: a few stored bytes can claim to be many names."""

Variable = tuple[str, str, bool]
"""A variable's path in the file, its name, and whether it is in a flat file."""


def open_hdf5(file: FileHandle) -> Reader:
    """List the weights of a ``tf_model.h5``, complete or a shard.

    The reader's metadata are those of `create_hdf5`: ``scope``, the most frequent of the removed
    components, and ``layout``. Raise FormatError if the file is damaged, inconsistent, hostile, or
    has no Keras weights.
    """
    with ExitStack() as stack:
        stack.callback(file.close)
        objects = Hdf5Objects(file)
        stack.callback(objects.close)
        variables = _bounded(file, _variables(objects))
        submodels = _submodel_layers(variables)
        tensors: dict[str, StoredTensor] = {}
        duplicates: dict[str, list[StoredTensor]] = {}
        scopes: Counter[str] = Counter()
        repeated: dict[str, list[str]] = {}
        for path, variable, is_flat in variables:
            name = variable
            if "/" in variable and (not is_flat or "model." in variable):
                scope, _, below = variable.partition("/")
                scopes[scope] += 1
                name = variable if scope in submodels else below
            tensor = objects.tensor(path, name)
            if name in tensors:
                duplicates.setdefault(name, []).append(tensor)
                repeated.setdefault(path.partition("/")[0], []).append(name)
            else:
                tensors[name] = tensor
        flat = any(is_flat for _, _, is_flat in variables)
        metadata = {"layout": "flat" if flat else "layers"}
        if scopes:
            metadata["scope"] = scopes.most_common(1)[0][0]
        if not objects.needs_h5py:
            objects.close()
        return Reader(
            path=file.path,
            tensors=tensors,
            close=stack.pop_all().close,
            metadata=metadata,
            duplicates=duplicates,
            repeated={} if flat else repeated,
        )


def _bounded(file: FileHandle, variables: Iterator[Variable]) -> list[Variable]:
    """Return all of `variables`, if they are not too many for the file."""
    total, listed = 0, []
    limit = min(MAX_TENSORS, file.size // 64)
    for variable in variables:
        listed.append(variable)
        total += len(variable[0])
        if len(listed) > limit or total > MAX_NAME_BYTES:
            count = f"over {len(listed)}"
            raise file.error("the file lists too many names", found=count)
    return listed


def _variables(objects: Hdf5Objects) -> Iterator[Variable]:
    """Yield each variable that is listed."""
    file = objects.handle
    layers = objects.names("", "layer_names")
    if layers is None:
        raise file.error(
            "no Keras weights",
            expected="an attribute 'layer_names' at the root",
            remedy="a '.weights.h5' of Keras 3 stores no variable names: load it into its model "
            "with load_weights, then use save_pretrained",
        )
    for layer in _unique(file, layers):
        if objects.is_dataset(layer):
            yield layer, layer, True
            continue
        weights = objects.names(layer, "weight_names")
        if weights is None:
            raise file.error("a layer does not list its weights", layer)
        for weight in _unique(file, weights):
            yield f"{layer}/{weight}", weight, False


def _submodel_layers(variables: list[Variable]) -> set[str]:
    """Return the layers that are models of their own.

    A composite model lists its submodels as layers, ``tf_bert_model`` and
    ``tf_bert_lm_head_model``. The variables of a submodel that was built before the composite start
    with the submodel's name instead of the composite's, which keeps them distinct.
    """
    scopes = {
        (path.partition("/")[0], variable.partition("/")[0])
        for path, variable, is_flat in variables
        if not is_flat and "/" in variable
    }
    several = len({scope for _, scope in scopes}) > 1
    return {scope for layer, scope in scopes if several and layer == scope}


def _unique(file: FileHandle, names: list[str]) -> list[str]:
    """Return `names`, after checking for duplicates."""
    if len(set(names)) != len(names):
        duplicate = next(name for name, count in Counter(names).items() if count > 1)
        raise file.error("listed twice", duplicate)
    return names

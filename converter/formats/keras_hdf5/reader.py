"""Reading of ``tf_model.h5``, complete or a shard; see `converter.formats.keras_hdf5`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from converter.formats.base import Reader, StoredTensor
from converter.formats.file_handle import MAX_TENSORS, FileHandle
from converter.formats.keras_hdf5.objects import MODEL_LEVEL, Hdf5Objects

MAX_NAME_BYTES = 64 << 20
"""Bytes of all names together: a few stored bytes can claim to be many names."""

_MODEL_WEIGHTS = "model_weights"
"""Group that ``model.save("x.h5")`` of Keras 2 writes the layers into."""
_OPTIMIZER_WEIGHTS = "optimizer_weights"
"""Its group for the optimizer's variables, which are ignored."""


@dataclass(frozen=True, slots=True)
class _Variable:
    """A variable that the file lists."""

    path: str
    """Of its dataset."""
    layer: str
    name: str
    is_flat: bool
    """Whether it is in a flat file."""


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
        for variable in variables:
            name = variable.name
            if "/" in name and (not variable.is_flat or "model." in name):
                scope, _, below = name.partition("/")
                scopes[scope] += 1
                name = name if scope in submodels else below
            tensor = objects.tensor(variable.path, name)
            if name in tensors:
                duplicates.setdefault(name, []).append(tensor)
                repeated.setdefault(variable.layer, []).append(name)
            else:
                tensors[name] = tensor
        ignored = (_OPTIMIZER_WEIGHTS,) if objects.has("", _OPTIMIZER_WEIGHTS) else ()
        flat = any(variable.is_flat for variable in variables)
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
            ignored=ignored,
        )


def _bounded(file: FileHandle, variables: Iterator[_Variable]) -> list[_Variable]:
    """Return all of `variables`, if they are not too many for the file."""
    total, listed = 0, []
    limit = min(MAX_TENSORS, file.size // 64)
    for variable in variables:
        listed.append(variable)
        total += len(variable.path)
        if len(listed) > limit or total > MAX_NAME_BYTES:
            count = f"over {len(listed)}"
            raise file.error("the file lists too many names", found=count)
    return listed


def _variables(objects: Hdf5Objects) -> Iterator[_Variable]:
    """Yield each variable that is listed."""
    file, group = objects.handle, ""
    layers = objects.names(group, "layer_names")
    if layers is None and objects.has(group, _MODEL_WEIGHTS):
        group = f"{_MODEL_WEIGHTS}/"
        layers = objects.names(group, "layer_names")
    if layers is None:
        raise file.error(
            "no Keras weights",
            expected=f"an attribute 'layer_names' at the root or in a group '{_MODEL_WEIGHTS}'",
            remedy="a '.weights.h5' of Keras 3 stores no variable names: load it into its model "
            "with load_weights, then use save_pretrained",
        )
    if objects.has(group, MODEL_LEVEL) and objects.names(group + MODEL_LEVEL, "weight_names"):
        layers = [*layers, MODEL_LEVEL]
    for layer in _unique(file, layers):
        path = group + layer
        if objects.is_dataset(path):
            yield _Variable(path, layer, layer, is_flat=True)
            continue
        weights = objects.names(path, "weight_names")
        if weights is None:
            raise file.error("a layer does not list its weights", layer)
        for weight in _unique(file, weights):
            yield _Variable(f"{path}/{weight}", layer, weight, is_flat=False)


def _submodel_layers(variables: list[_Variable]) -> set[str]:
    """Return the layers that are models of their own.

    A composite model lists its submodels as layers, ``tf_bert_model`` and
    ``tf_bert_lm_head_model``. The variables of a submodel that was built before the composite start
    with the submodel's name instead of the composite's, which keeps them distinct.
    """
    scopes = {
        (variable.layer, variable.name.partition("/")[0])
        for variable in variables
        if not variable.is_flat and "/" in variable.name
    }
    several = len({scope for _, scope in scopes}) > 1
    return {scope for layer, scope in scopes if several and layer == scope}


def _unique(file: FileHandle, names: list[str]) -> list[str]:
    """Return `names`, after checking for duplicates."""
    if len(set(names)) != len(names):
        duplicate = next(name for name, count in Counter(names).items() if count > 1)
        raise file.error("listed twice", duplicate)
    return names

"""Comparison of the package's readers with each framework's own library."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from converter.checkpoint.opening import Checkpoint
from converter.errors import Problem, UnsupportedError
from converter.models.model import Model
from converter.optional_imports import install_hint
from converter.verification.result import Findings

_NEEDS = {
    "safetensors": ("torch", ("torch",)),
    "torch": ("torch", ("torch",)),
    "keras-hdf5": ("tensorflow", ("tensorflow", "tf_keras")),
    "flax-msgpack": ("flax", ("flax",)),
}
"""Format → the extra that installs its library, and the packages that it needs."""

Values = tuple[tuple[int, ...], bytes]
"""Shape and C-order bytes."""


def check_native(models: Mapping[str, Model]) -> Findings:
    """Compare every tensor of every file with what the framework's own library reads.

    The error about a library that is not installed names the extra that installs it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else TensorFlow logs to the terminal
    _require({model.checkpoint.file_format for model in models.values()})
    findings = Findings()
    for label, model in models.items():
        findings += _check_file(label, model.checkpoint)
    return findings


def _check_file(label: str, checkpoint: Checkpoint) -> Findings:
    read = _READERS.get(checkpoint.file_format)
    if read is None:
        return Findings(notes=[f"{label}: no native reader for {checkpoint.file_format}"])
    problems: list[Problem] = []
    count, matched = 0, set()
    for path in dict.fromkeys(checkpoint.files):
        try:
            for name, values in read(path):
                stored_name = _stored_name(checkpoint, name)
                matched.add(stored_name)
                problems += _compare(checkpoint, path, name, stored_name, values)
                count += 1
        except Exception as error:  # whatever a library raises is what its users will see
            finding = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            problems.append(Problem("its own library cannot read it", str(path), found=finding))
    problems += [
        Problem("its own library does not find it", str(tensor.path), name)
        for name, tensor in checkpoint.tensors.items()
        if name not in matched
    ]
    return Findings(problems, checks={f"tensors of {label} read by its own library": str(count)})


def _require(file_formats: set[str]) -> None:
    needs = dict(_NEEDS[name] for name in file_formats if name in _NEEDS)
    problems = [
        Problem(f"{' and '.join(missing)} is not installed", remedy=install_hint(extra))
        for extra, packages in needs.items()
        if (missing := [package for package in packages if find_spec(package) is None])
    ]
    if problems:
        raise UnsupportedError("--native requires the frameworks", problems)


def _stored_name(checkpoint: Checkpoint, name: str) -> str | None:
    """Return the stored name of a library's tensor: `name`, or that without TensorFlow's scope."""
    for candidate in (name, name.partition("/")[2], name.partition(".")[2]):
        if candidate in checkpoint.tensors:
            return candidate
    return None


def _compare(
    checkpoint: Checkpoint, path: Path, name: str, stored_name: str | None, values: Values
) -> Iterator[Problem]:
    """Compare one tensor that a library read with the package's reader."""
    if stored_name is None:
        yield Problem("only its own library finds it", str(path), name)
        return
    tensor = checkpoint.tensors[stored_name]
    if tensor.path != path:
        copies = checkpoint.duplicates.get(stored_name, ())
        tensor = next((copy for copy in copies if copy.path == path), tensor)
    shape, data = values
    if tensor.spec.shape != shape:
        expected, found = str(list(tensor.spec.shape)), str(list(shape))
        yield Problem("its own library finds another shape", str(path), name, expected, found)
    elif tensor.read().tobytes() != data:
        yield Problem("its own library reads other values", str(path), name)


def _safetensors(path: Path) -> Iterator[tuple[str, Values]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a dictionary
            yield name, _of_torch(file.get_tensor(name))


def _torch(path: Path) -> Iterator[tuple[str, Values]]:
    import torch

    from converter.formats.torch.state_dict import WRAPPERS

    root = torch.load(path, map_location="cpu", weights_only=True)
    root = next((root[key] for key in WRAPPERS if isinstance(root.get(key), Mapping)), root)
    for name, value in _leaves(root, "."):
        if isinstance(value, torch.Tensor):
            yield name, _of_torch(value)


def _of_torch(tensor: Any) -> Values:
    import torch

    flat = tensor.detach().contiguous().reshape(-1)
    return tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes()


def _keras(path: Path) -> Iterator[tuple[str, Values]]:
    """Read a file as tf-keras does: layers by the list of layers, weights by each layer's list."""
    import h5py
    from tf_keras.src.saving.legacy.hdf5_format import load_attributes_from_hdf5_group as attributes

    with h5py.File(path, "r") as file:
        for layer in attributes(file, "layer_names"):
            if isinstance(file[layer], h5py.Dataset):  # the "layers" of a shard are weights
                yield layer, _of_numpy(np.asarray(file[layer]))
                continue
            for name in attributes(file[layer], "weight_names"):
                yield name, _of_numpy(np.asarray(file[layer][name]))


def _flax(path: Path) -> Iterator[tuple[str, Values]]:
    from flax.serialization import msgpack_restore

    for name, value in _leaves(msgpack_restore(path.read_bytes()), "/"):
        yield name, _of_numpy(np.asarray(value))


def _of_numpy(array: Any) -> Values:
    return array.shape, np.ascontiguousarray(array).tobytes()


def _leaves(tree: Mapping[str, Any], separator: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, separator, f"{prefix}{key}{separator}")
        else:
            yield f"{prefix}{key}", value


_READERS: Mapping[str, Callable[[Path], Iterator[tuple[str, Values]]]] = {
    "safetensors": _safetensors,
    "torch": _torch,
    "keras-hdf5": _keras,
    "flax-msgpack": _flax,
}

"""Keras HDF5 files, written with the calls that Keras makes."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from converter.tensors import TensorSpec


def spec(name: str, shape: tuple[int, ...] = (2, 3), dtype: str = "float32") -> TensorSpec:
    """Return the specification of a tensor called `name`."""
    return TensorSpec(name, dtype, shape)


def keras_file(path: Path, layers: dict[str, dict[str, np.ndarray]], **options: object) -> Path:
    """Write a file with the calls that Keras makes."""
    with h5py.File(path, "w", **options) as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        file.attrs["backend"] = b"tensorflow"
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [weight.encode() for weight in weights]
            for weight, array in weights.items():
                group.create_dataset(weight, data=array)
        file.create_group("top_level_model_weights").attrs["weight_names"] = []
    return path

"""Damage to finished checkpoints, so that the checks are shown to fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.transformers.weight_files import FILES, read_msgpack

Damage = Callable[[dict[str, np.ndarray], tuple[str, str]], None]


def break_pytorch(directory: Path, first: str, second: str, damage: Damage) -> None:
    """Damage tensors of ``model.safetensors``, named as in PyTorch."""
    from safetensors.numpy import load_file, save_file

    path = directory / FILES["safetensors"]
    tensors = load_file(path)
    damage(tensors, (first, second))
    save_file(tensors, path, metadata={"format": "pt"})


def break_tensorflow(directory: Path, first: str, second: str, damage: Damage) -> None:
    """Damage datasets of ``tf_model.h5``, named as in PyTorch; weights of linear layers only."""
    import h5py

    with h5py.File(directory / FILES["h5"], "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "dtype") else None)
        stored = tuple(
            next(name for name in names if _tensorflow_name(expected) in name)
            for expected in (first, second)
        )
        tensors = {name: np.asarray(file[name]) for name in stored}
        damage(tensors, (stored[0], stored[1]))
        for name in stored:
            if name in tensors:
                file[name][...] = tensors[name]
                continue
            del file[name]
            for group in file.values():  # an unlisted weight is missing, a dangling name a crash
                if "weight_names" in group.attrs:
                    listed = [
                        item
                        for item in group.attrs["weight_names"]
                        if item not in (name.split("/", 1)[1], name.split("/", 1)[1].encode())
                    ]
                    group.attrs["weight_names"] = listed


def break_flax(directory: Path, first: str, second: str, damage: Damage) -> None:
    """Damage parameters of ``flax_model.msgpack``, named as in PyTorch."""
    from flax.serialization import msgpack_serialize
    from flax.traverse_util import unflatten_dict

    path = directory / FILES["msgpack"]
    tensors = {key: np.array(value) for key, value in read_msgpack(path).items()}
    damage(tensors, (_flax_name(first), _flax_name(second)))
    path.write_bytes(msgpack_serialize(unflatten_dict(tensors, sep="/")))


def _flax_name(name: str) -> str:
    return name.replace(".", "/").removesuffix("weight") + "kernel"


def _tensorflow_name(name: str) -> str:
    return (
        name.replace("layer.", "layer_._")
        .replace(".", "/")
        .replace("layer_/_", "layer_._")
        .removesuffix("weight")
        + "kernel:0"
    )

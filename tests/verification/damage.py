"""Damage to finished checkpoints of any format, without any framework."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from converter.formats.registry import open_file
from converter.formats.stored_tensors import ContiguousTensor
from tests import factories

Array = np.ndarray[Any, np.dtype[Any]]
FILES = ("model.safetensors", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack")
FORMATS = dict(zip(FILES, ("safetensors", "torch", "keras-hdf5", "flax-msgpack"), strict=True))

QUERY = "encoder.layer.0.attention.self.query"
KEY = "encoder.layer.0.attention.self.key"
DENSE = "encoder.layer.1.intermediate.dense"
"""Modules of the encoder; the first two are square and of one shape."""


def copy_of(source: Path, target: Path) -> Path:
    """Copy a checkpoint to damage it."""
    shutil.copytree(source, target)
    return target


def key_of(file: Path, module: str) -> str:
    """Return the name in `file` of the weight of an encoder module."""
    ending = module.replace("layer.", "layer_._" if file.suffix == ".h5" else "layer/")
    ending = module if file.suffix in (".safetensors", ".bin") else ending.replace(".", "/")
    ending = ending.replace("layer_/_", "layer_._")
    with open_file(file) as reader:
        [name] = [
            name
            for name in reader.tensors
            if name.startswith("encoder")
            and f"{ending}" in name
            and not name.endswith(("bias", "bias:0"))
        ]
    return name


def alter(file: Path, names: list[str], change: Callable[..., Any]) -> None:
    """Change the values of some tensors in place.

    Args:
        file: the weight file.
        names: as the file calls them.
        change: takes an array for each name, and changes them in place.

    """
    with open_file(file) as reader:
        tensors = [reader.tensors[name] for name in names]
        arrays = [tensor.read() for tensor in tensors]
        change(*arrays)
        with file.open("r+b") as raw:
            for tensor, array in zip(tensors, arrays, strict=True):
                assert isinstance(tensor, ContiguousTensor)
                data = array.tobytes()
                for part in tensor.segments:
                    raw.seek(part.file_offset)
                    raw.write(data[part.tensor_offset : part.tensor_offset + part.nbytes])


def rewrite(file: Path, change: Callable[[dict[str, Array]], object]) -> None:
    """Write `file` again after `change` of its tensors by name."""
    with open_file(file) as reader:
        tensors = {name: tensor.read() for name, tensor in reader.tensors.items()}
    change(tensors)
    file.unlink()
    scope = {"scope": "tf_encoder_decoder_model"} if file.suffix == ".h5" else {}
    factories.write(file.parent, None, tensors, FORMATS[file.name], scope)


def update(path: Path, **fields: Any) -> None:
    """Change fields of a JSON file; dots separate nested fields."""
    content = json.loads(path.read_text())
    for field, value in fields.items():
        *way, last = field.split("__")
        directory = content
        for step in way:
            directory = directory[step]
        directory[last] = value
    path.write_text(json.dumps(content))


def flip_bit(array: Array) -> None:
    """Change one value by one unit in the last place."""
    array.reshape(-1).view("u4")[7] ^= 1


def flip_low_bit(array: Array) -> None:
    """Change one 16-bit value by one unit in the last place, in 16 or 32 bits."""
    array.reshape(-1).view("u4" if array.itemsize == 4 else "u2")[7] ^= (
        1 << 16 if array.itemsize == 4 else 1
    )


def reinitialized(array: Array) -> None:
    """Initialize all values newly."""
    array[...] = np.random.default_rng(9).standard_normal(array.shape) * 0.02


def as_float16(array: Array) -> None:
    """Round to float16 and back."""
    array[...] = array.astype(np.float16)


def moved(array: Array) -> None:
    """Shift by one along the last axis."""
    array[...] = np.roll(array, 1, axis=-1)


def transposed(array: Array) -> None:
    """Transpose a matrix, keeping its shape."""
    array[...] = np.ascontiguousarray(array.T).reshape(array.shape)


def negated(array: Array) -> None:
    """Flip the signs."""
    array *= -1


def zeroed(array: Array) -> None:
    """Make all values zero."""
    array[...] = 0


def not_a_number(array: Array) -> None:
    """Set one value to NaN."""
    array.reshape(-1)[5] = np.nan


def scaled(array: Array) -> None:
    """Multiply by a constant."""
    array *= np.float32(1.1)


def one_row(array: Array) -> None:
    """Put one row, or column, over the next."""
    array[..., 2] = array[..., 1]


def swapped(first: Array, second: Array) -> None:
    """Swap two tensors of one shape."""
    first[...], second[...] = second.copy(), first.copy()


def duplicated(first: Array, second: Array) -> None:
    """Put one tensor over another."""
    second[...] = first

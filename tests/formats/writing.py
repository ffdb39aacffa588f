"""Writing of test files through a format's own writer, as the executor does."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converter.formats.base import Array, FileFormat
from converter.formats.registry import FORMATS
from converter.tensors import TensorSpec
from tests.formats import tensorflow_checkpoints

READ_ONLY: Mapping[str, Callable[..., None]] = {
    "tensorflow-checkpoint": tensorflow_checkpoints.write
}
"""Read-only formats → their writers for tests."""
DIRECTORIES = frozenset({"orbax"})
"""Read-only formats that are directories: written and tested in files of their own."""
FILE_FORMATS = [name for name in FORMATS if name not in DIRECTORIES]
"""The formats that the contract tests cover: all others of the registry."""


def copy_siblings(path: Path, other: Path) -> None:
    """Copy the other files of the checkpoint at `path` next to `other`, under its name."""
    for file in path.parent.glob(f"{path.name}.*"):
        shutil.copy(file, other.with_name(other.name + file.name.removeprefix(path.name)))


def model(file_format: FileFormat) -> list[TensorSpec]:
    """Return a tensor of every dtype that the format can hold, and of every unusual shape."""
    specs = [TensorSpec(f"model/{name}/kernel:0", name, (3, 5)) for name in file_format.dtypes]
    shapes = {"scalar": (), "row": (1, 7), "cube": (2, 3, 4), "empty": (0, 4), "deep": (1, 2) * 4}
    specs += [TensorSpec(f"model/{key}/w:0", "float32", shape) for key, shape in shapes.items()]
    return sorted(specs, key=lambda spec: spec.name)


def values(spec: TensorSpec, seed: int = 0) -> Array:
    """Return values that differ between elements and between tensors."""
    from converter.tensors import numpy_dtype

    dtype = numpy_dtype(spec.dtype)
    rng = np.random.default_rng([seed, *spec.name.encode()])
    if spec.dtype == "bool":
        return rng.integers(0, 2, spec.shape).astype(bool)
    if dtype.kind in "iu":
        return rng.integers(0, 100, spec.shape).astype(dtype)
    plain = rng.standard_normal(spec.shape)
    if dtype.kind == "c":
        return np.asarray(plain + 1j * rng.standard_normal(spec.shape)).astype(dtype)
    return np.asarray(plain).astype(dtype)


def write(
    file_format: FileFormat, path: Path, arrays: Mapping[TensorSpec, Array], **options: Any
) -> None:
    """Create `path` with the arrays, written in reverse order and in two parts each."""
    if file_format.name in READ_ONLY:
        READ_ONLY[file_format.name](path, arrays, **options)
        return
    output = file_format.create(path, list(arrays), **options)
    crc32 = {}
    with path.open("r+b") as file:
        for spec, array in reversed(list(arrays.items())):
            data = array.tobytes()
            crc32[spec.name] = zlib.crc32(data)
            for segment in reversed(output.segments[spec.name]):
                part = data[segment.tensor_offset : segment.tensor_offset + segment.nbytes]
                middle = len(part) // 2
                file.seek(segment.file_offset + middle)
                file.write(part[middle:])
                file.seek(segment.file_offset)
                file.write(part[:middle])
    output.finalize(crc32 if output.needs_crc32 else {})


def same(a: Array, b: Array) -> bool:
    """Return whether dtype, shape and every bit agree."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()

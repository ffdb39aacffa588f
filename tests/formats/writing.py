"""Writes files through a container's own writer, the way the engine does."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converter.formats.base import Array, FileFormat
from converter.tensors import TensorSpec
from tests.formats import bundles

READ_ONLY: Mapping[str, Callable[..., None]] = {"tensorflow-checkpoint": bundles.write}
"""Containers that are only read, and what writes them for tests."""


def bring_along(path: Path, other: Path) -> None:
    """Put the further files of the checkpoint at `path` beside `other`, under its name."""
    for file in path.parent.glob(f"{path.name}.*"):
        shutil.copy(file, other.with_name(other.name + file.name.removeprefix(path.name)))


def model(file_format: FileFormat) -> list[TensorSpec]:
    """A tensor of every dtype that the container can hold, and every peculiar shape."""
    specs = [TensorSpec(f"model/{name}/kernel:0", name, (3, 5)) for name in file_format.dtypes]
    shapes = {"scalar": (), "row": (1, 7), "cube": (2, 3, 4), "empty": (0, 4), "deep": (1, 2) * 4}
    specs += [TensorSpec(f"model/{key}/w:0", "float32", shape) for key, shape in shapes.items()]
    return sorted(specs, key=lambda spec: spec.name)


def values(spec: TensorSpec, seed: int = 0) -> Array:
    """Values that differ from element to element and from tensor to tensor."""
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
    """Create `path` with the arrays, filled in reverse order and in two parts each."""
    if file_format.name in READ_ONLY:
        READ_ONLY[file_format.name](path, arrays, **options)
        return
    output = file_format.create(path, list(arrays), **options)
    crc32 = {}
    fd = os.open(path, os.O_WRONLY)
    try:
        for spec, array in reversed(list(arrays.items())):
            data = array.tobytes()
            crc32[spec.name] = zlib.crc32(data)
            for segment in reversed(output.segments[spec.name]):
                part = data[segment.tensor_offset : segment.tensor_offset + segment.nbytes]
                submodel = len(part) // 2
                os.pwrite(fd, part[submodel:], segment.file_offset + submodel)
                os.pwrite(fd, part[:submodel], segment.file_offset)
    finally:
        os.close(fd)
    output.finalize(crc32 if output.needs_crc32 else {})


def same(a: Array, b: Array) -> bool:
    """Whether dtype, shape and every bit agree."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()

"""What PyTorch and Flax load, made of a planned file's tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from converter.containers.base import Array
from converter.engine.memory import PlannedArrays
from converter.errors import UnsupportedError
from converter.extras import imported
from converter.progress import Meter, Progress

if TYPE_CHECKING:
    import torch

_BITS = {1: "uint8", 2: "int16"}
"""Bytes of an element → the torch dtype through which numpy hands over what it does not know."""


def state_dict(arrays: PlannedArrays, progress: Progress | None) -> dict[str, torch.Tensor]:
    """The tensors as PyTorch's, without another copy; aliases are the very same tensor.

    Raises:
        UnsupportedError: if torch is not installed.
        CheckpointError: if the files cannot be read.
        MatchError: if copies of a tensor differ.
    """
    torch = imported("torch", "torch", "to_torch()")
    found = {name: _tensor(torch, array) for name, array in _read(arrays, progress)}
    return found | {alias: found[name] for alias, name in arrays.aliases.items()}


def _tensor(torch: Any, array: Array) -> torch.Tensor:
    """The same memory as a tensor."""
    if array.dtype.isbuiltin == 1:
        whole: torch.Tensor = torch.from_numpy(array)
        return whole
    bits = torch.from_numpy(array.view(_BITS[array.itemsize]))
    return bits.view(getattr(torch, array.dtype.name))


def params(arrays: PlannedArrays, progress: Progress | None) -> dict[str, Any]:
    """The tensors as nested dictionaries of JAX arrays.

    Raises:
        UnsupportedError: if JAX is not installed or holds a dtype only in its 64-bit mode.
        CheckpointError: if the files cannot be read.
        MatchError: if copies of a tensor differ.
    """
    jax = imported("jax", "flax", "to_flax()")
    wide = {arrays.spec(name)[0] for name in arrays} & {"float64", "int64", "uint64", "complex128"}
    if wide and not jax.config.jax_enable_x64:
        raise UnsupportedError(
            f"JAX cannot hold {', '.join(sorted(wide))} unless its 64-bit mode is on",
            remedy='Call jax.config.update("jax_enable_x64", True), or to_flax(dtype="float32").',
        )
    tree: dict[str, Any] = {}
    for name, array in _read(arrays, progress):
        *path, leaf = name.split("/")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[leaf] = jax.numpy.array(array)  # its own copy, where CPU arrays might be shared
    return tree


def _read(arrays: PlannedArrays, progress: Progress | None) -> Iterator[tuple[str, Array]]:
    """One tensor after another, telling how far the work is."""
    count = Meter(progress).counting({name: arrays.nbytes(name) for name in arrays})
    for name in arrays:
        yield name, arrays[name]
        count(name)

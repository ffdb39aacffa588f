"""Tiny random checkpoints of any family, made from its table without any framework.

The names and layouts come from the very tables that the package reads, so these checkpoints test
the code around the tables; the tables themselves are tested against transformers (`peer`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import ModelSpec, ModelSpecBuilder
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import CROSS_ATTENTION, Architecture
from converter.formats.registry import get_format
from converter.tensors import Rearrangement, TensorSpec, numpy_dtype, rearrange

Array = np.ndarray[Any, np.dtype[Any]]

TINY: Mapping[str, int] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "embedding_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "n_embd": 28,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 30,
    "n_inner": 44,
    "dim": 36,
    "hidden_dim": 52,
    "n_layers": 2,
    "n_heads": 4,
}
"""Sizes that differ from each other, for the fields that a family has."""

TOKENS = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
    "cls_token_id": 4,
    "sep_token_id": 5,
    "decoder_start_token_id": 4,
}

_CONTAINERS = {"pytorch": "safetensors", "tensorflow": "keras-hdf5", "flax": "flax-msgpack"}
_FILES = {
    "safetensors": "model.safetensors",
    "torch": "pytorch_model.bin",
    "keras-hdf5": "tf_model.h5",
    "flax-msgpack": "flax_model.msgpack",
}


@cache
def bundled_registry() -> ArchitectureRegistry:
    """Return the registry of the bundled tables, parsed once for all tests of a process."""
    return ArchitectureRegistry()


@dataclass
class Made:
    """A checkpoint on disk, and what it holds."""

    directory: Path
    file: Path
    config: dict[str, Any]
    values: dict[str, Array]
    """Canonical name → values in PyTorch's layout."""


def tiny_config(architecture: str, **changes: Any) -> dict[str, Any]:
    """Return the content of a ``config.json`` for a tiny model of `architecture`."""
    fields = bundled_registry().architecture(architecture).config
    sizes = {field: value for field, value in TINY.items() if field in fields}
    return {"model_type": architecture, **sizes, **TOKENS, **changes}


def model_spec(
    config: Mapping[str, Any], model: str | None = None, *, cross_attention: bool = False
) -> ModelSpec:
    """Return the specification of class `model`, by default that of the encoder.

    Args:
        config: with a ``model_type``.
        model: the PyTorch class.
        cross_attention: whether the model has it too.

    """
    registry = bundled_registry()
    architecture = registry.architecture(config["model_type"])
    chosen = architecture.models[model or _leading(architecture)]
    parts = [*chosen.parts, *([CROSS_ATTENTION] if cross_attention else [])]
    return ModelSpecBuilder(registry.conventions).model(
        ModelConfig(architecture, config), parts, chosen.heads, base=chosen.base_model_prefix
    )


def _leading(architecture: Architecture) -> str:
    """Return the class of an architecture as encoder, or else as decoder."""
    return (architecture.roles.get("encoder") or architecture.roles["decoder"]).model


def noise(name: str, shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> Array:
    """Return normal noise of deviation 0.1 that depends only on the name and the seed."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return (generator.standard_normal(shape) * 0.1).astype(numpy_dtype(dtype))


def stored(
    expanded: ModelSpec, dialect: str = "pytorch", *, dtype: str = "float32", seed: int = 0
) -> dict[str, Array]:
    """Every tensor that a file in `dialect` holds, by its name there and in its layout."""
    tensors = {}
    for param in expanded.params:
        if param.tied_to and dialect not in param.stored_in:
            continue
        origin = expanded.resolve(param)
        values = noise(origin.name, origin.canonical.shape, dtype, seed)
        spelling = param.stored_as[dialect]
        way = Rearrangement(param.canonical.axes, spelling.axes)
        out = np.empty(spelling.shape, values.dtype)
        tensors[spelling.name] = rearrange(values, way, out)
    return tensors


def write(
    directory: Path,
    config: Mapping[str, Any] | None,
    tensors: Mapping[str, Array],
    file_format: str = "safetensors",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write ``config.json`` (if there is one) and a weight file; the path of the latter."""
    directory.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))
    path = directory / _FILES[file_format]
    if file_format == "safetensors":
        save_file(dict(tensors), path, metadata={"format": "pt", **(metadata or {})})
        return path
    specs = [TensorSpec(name, str(array.dtype), array.shape) for name, array in tensors.items()]
    output = get_format(file_format).create(path, specs, metadata=metadata or {})
    crc32 = {}
    with path.open("r+b") as file:
        for name, array in tensors.items():
            raw = np.ascontiguousarray(array).tobytes()
            crc32[name] = zlib.crc32(raw)
            for part in output.segments[name]:
                file.seek(part.file_offset)
                file.write(raw[part.tensor_offset : part.tensor_offset + part.nbytes])
    output.finalize(crc32)
    return path


def make(
    directory: Path,
    architecture: str,
    model: str | None = None,
    *,
    dialect: str = "pytorch",
    file_format: str | None = None,
    dtype: str = "float32",
    seed: int = 0,
    cross_attention: bool = False,
    **changes: Any,
) -> Made:
    """Write a tiny checkpoint.

    Args:
        directory: where.
        architecture: its table's name.
        model: the PyTorch class; by default that of the family as encoder.
        dialect: whose names and layouts.
        file_format: the file format; by default that of the dialect.
        dtype: of all tensors.
        seed: of the values.
        cross_attention: whether the model has it too.
        changes: fields of the configuration.

    """
    config = tiny_config(architecture, **changes)
    expanded = model_spec(config, model, cross_attention=cross_attention)
    tensors = stored(expanded, dialect, dtype=dtype, seed=seed)
    file_format = file_format or _CONTAINERS[dialect]
    scope = {"scope": "tf_model"} if file_format == "keras-hdf5" else {}
    file = write(directory, config, tensors, file_format, scope)
    values = {
        param.name: noise(param.name, param.canonical.shape, dtype, seed)
        for param in expanded.params
        if not param.tied_to
    }
    return Made(directory, file, config, values)

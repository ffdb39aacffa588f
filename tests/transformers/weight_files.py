"""The files of a checkpoint: isolated for a loader, and read without transformers."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

FILES = {
    "safetensors": "model.safetensors",
    "bin": "pytorch_model.bin",
    "h5": "tf_model.h5",
    "msgpack": "flax_model.msgpack",
}
FRAMEWORKS = {"safetensors": "pytorch", "bin": "pytorch", "h5": "tensorflow", "msgpack": "flax"}
COMBINED = "encoder-decoder"


class _Capture(logging.Handler):
    """Handler that collects the warnings of transformers."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(" ".join(record.getMessage().split()))


@contextlib.contextmanager
def captured() -> Iterator[list[str]]:
    """Collect the warnings of transformers during the block."""
    logger = logging.getLogger("transformers")
    handler = _Capture()
    before = (logger.handlers, logger.level, logger.propagate)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.WARNING)
    try:
        yield handler.messages
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])


@contextlib.contextmanager
def isolated(directory: Path, kind: str) -> Iterator[Path]:
    """Provide a directory with only one weight file and the configurations."""
    with tempfile.TemporaryDirectory(prefix="oracle-") as path:
        # `convert` copies no file through a link out of its checkpoint: only weights are links.
        (Path(path) / FILES[kind]).symlink_to((directory / FILES[kind]).resolve())
        for name in ("config.json", "generation_config.json"):
            if (directory / name).exists():
                shutil.copy(directory / name, path)
        yield Path(path)


def kinds(directory: Path) -> tuple[str, ...]:
    """Return the kinds of weight files in a directory."""
    return tuple(kind for kind, name in FILES.items() if (directory / name).is_file())


def configuration(directory: Path) -> dict[str, Any]:
    """Read ``config.json``."""
    config: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return config


def read_h5(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read weights by path without the instance name, and names that are stored more than once."""
    import h5py

    def names(group: Any, key: str) -> list[str]:
        chunks = [group.attrs[key]] if key in group.attrs else []
        while not chunks or f"{key}{len(chunks)}" in group.attrs:  # Keras splits long attributes
            if f"{key}{len(chunks)}" not in group.attrs:
                break
            chunks.append(group.attrs[f"{key}{len(chunks)}"])
        return [
            item.decode() if isinstance(item, bytes) else str(item)
            for chunk in chunks
            for item in chunk
        ]

    stored: dict[str, np.ndarray] = {}
    repeated = []
    with h5py.File(path, "r") as file:
        of_model = [name for name in ("top_level_model_weights",) if name in file]
        for layer in [*names(file, "layer_names"), *of_model]:
            for name in names(file[layer], "weight_names"):
                key = name.split("/", 1)[-1]
                if key in stored:
                    repeated.append(key)
                stored[key] = np.asarray(file[layer][name])
    return stored, repeated


@contextlib.contextmanager
def flax_zeros() -> Iterator[None]:
    """Let Flax modules give zeros as initial values, which takes no compilation.

    Loading replaces the values, and reports those that it does not replace.
    """
    import jax
    from flax import linen

    initialize = linen.Module.init

    def zeros(module: Any, *args: Any, **options: Any) -> Any:
        shapes = jax.eval_shape(lambda: initialize(module, *args, **options))
        return jax.tree_util.tree_map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)

    linen.Module.init = zeros
    try:
        yield
    finally:
        linen.Module.init = initialize


def read_msgpack(path: Path) -> dict[str, np.ndarray]:
    """Read parameters by path."""
    from flax.serialization import msgpack_restore
    from flax.traverse_util import flatten_dict

    flat: dict[str, np.ndarray] = flatten_dict(msgpack_restore(path.read_bytes()), sep="/")
    return flat

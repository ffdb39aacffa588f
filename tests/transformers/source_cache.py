"""Peer-made checkpoints in every container, each built once a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.transformers.models import SIZES, class_name, pytorch_model, translated, weights


class Workshop:
    """Builds peer-made checkpoints below one directory, each once a session."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._weights: dict[tuple[str, ...], dict[str, np.ndarray]] = {}

    def source(
        self,
        family: str,
        head: str = "base",
        size: str = "small",
        container: str = "safetensors",
        dtype: str = "float32",
        seed: int = 0,
        **changes: Any,
    ) -> Path:
        """A stand-alone checkpoint in one container, all containers holding the same values.

        The PyTorch model is the original; ``h5`` and ``msgpack`` are the peer's translation of it,
        saved by the peer's own class.
        """
        import torch

        details = "-".join(f"{key}={value}" for key, value in sorted(changes.items()))
        name = "-".join(filter(None, (family, head, size, dtype, str(seed), details)))
        path = self.root / name / container
        if path.exists():
            return path
        if container in ("safetensors", "bin"):
            model = pytorch_model(family, head, SIZES[size], seed, **changes)
            model.to(getattr(torch, dtype))
            model.save_pretrained(path, safe_serialization=container == "safetensors")
            return path
        framework = {"h5": "tensorflow", "msgpack": "flax"}[container]
        # From the .bin: safetensors keeps one of two tied names, TFAlbertForMaskedLM wants both.
        original = self.source(family, head, size, "bin", dtype, seed, **changes)
        target = class_name(framework, family, head)
        assert target, f"{framework} has no {head} class for {family}"
        translated(original, framework, target).save_pretrained(path)
        return path

    def peer_weights(
        self, directory: Path, framework: str, family: str, head: str
    ) -> dict[str, np.ndarray]:
        """The peer's translation of a PyTorch checkpoint into one framework, weight by weight."""
        key = (str(directory), framework, head)
        if key not in self._weights:
            name = class_name(framework, family, head)
            assert name, f"{framework} has no {head} class for {family}"
            self._weights[key] = weights(translated(directory, framework, name), framework)
        return self._weights[key]

"""Checkpoints saved by transformers in every format, each built once a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.transformers.models import SIZES, class_name, pytorch_model, translated, weights


class SourceCache:
    """Builds checkpoints with transformers below one directory, each once a session."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._weights: dict[tuple[str, ...], dict[str, np.ndarray]] = {}

    def source(
        self,
        architecture: str,
        head: str = "base",
        size: str = "small",
        file_format: str = "safetensors",
        dtype: str = "float32",
        seed: int = 0,
        **changes: Any,
    ) -> Path:
        """Return a stand-alone checkpoint in one format, with the same values in all formats.

        The PyTorch model is the original; ``h5`` and ``msgpack`` are converted and saved by
        transformers.
        """
        import torch

        details = "-".join(f"{key}={value}" for key, value in sorted(changes.items()))
        name = "-".join(filter(None, (architecture, head, size, dtype, str(seed), details)))
        path = self.root / name / file_format
        if path.exists():
            return path
        if file_format in ("safetensors", "bin"):
            model = pytorch_model(architecture, head, SIZES[size], seed, **changes)
            model.to(getattr(torch, dtype))
            model.save_pretrained(path, safe_serialization=file_format == "safetensors")
            return path
        framework = {"h5": "tensorflow", "msgpack": "flax"}[file_format]
        # From the .bin: safetensors has one of two tied names, TFAlbertForMaskedLM needs both.
        original = self.source(architecture, head, size, "bin", dtype, seed, **changes)
        target = class_name(framework, architecture, head)
        assert target, f"{framework} has no {head} class for {architecture}"
        translated(original, framework, target).save_pretrained(path)
        return path

    def converted_weights(
        self, directory: Path, framework: str, architecture: str, head: str
    ) -> dict[str, np.ndarray]:
        """Return the weights of a PyTorch checkpoint converted by transformers to one framework."""
        key = (str(directory), framework, head)
        if key not in self._weights:
            name = class_name(framework, architecture, head)
            assert name, f"{framework} has no {head} class for {architecture}"
            self._weights[key] = weights(translated(directory, framework, name), framework)
        return self._weights[key]

"""Script that loads and runs a checkpoint with transformers and prints one line of JSON.

It is run by an interpreter of the user's choice with transformers and any of PyTorch, TensorFlow
and Flax. This package need not be installed there: the script imports nothing of it. It works with
transformers 4 (three frameworks) and 5 (PyTorch).

Usage: ``python transformers_runner.py REQUEST``, where REQUEST is JSON with ``directory``,
``files`` (kind → names of the files that the loader may see) and ``classes`` (framework → class).
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

MARK = "converter-transformers:"
"""Prefix of the output line that holds the result."""

FRAMEWORKS = {"safetensors": "pytorch", "bin": "pytorch", "h5": "tensorflow", "msgpack": "flax"}
_PACKAGES = {"pytorch": "torch", "tensorflow": "tensorflow", "flax": "flax"}
_CHARACTERS = 128
"""Token ids of a model that has no vocabulary, but takes code points."""
_CONFIGS = ("config.json", "generation_config.json")


class _Messages(logging.Handler):
    """Handler that collects warnings of transformers."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Collect one message."""
        self.texts.append(" ".join(record.getMessage().split()))


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Load and run each file with its framework, and compare the outputs."""
    import transformers

    messages = _Messages()
    logger = logging.getLogger("transformers")
    logger.handlers, logger.propagate = [messages], False
    logger.setLevel(logging.WARNING)
    files: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    outputs: dict[str, dict[str, Any]] = {}
    for kind, names in request["files"].items():
        framework = FRAMEWORKS[kind]
        name = request["classes"].get(framework)
        if reason := _unavailable(transformers, framework, name):
            skipped[kind] = reason
            continue
        messages.texts.clear()
        report: dict[str, Any] = {"framework": framework, "class": name}
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
            for file in (*_CONFIGS, *names):
                path = Path(request["directory"], file).resolve()
                if path.exists():
                    (Path(directory) / file).symlink_to(path)
            try:
                outputs[kind] = _load(directory, kind, getattr(transformers, name), report)
            except Exception as error:  # whatever it raises is what users will see
                text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
                report["error"] = text.replace(directory, request["directory"])
        report["messages"] = [
            text.replace(directory, request["directory"])[:500]
            for text in messages.texts
            if "newly initialized" in text or ("not used when" in text and text[:4] != "All ")
        ]
        files[kind] = report
    return {
        "transformers": transformers.__version__,
        "files": files,
        "skipped": skipped,
        "differences": _differences(outputs),
    }


def _unavailable(transformers: Any, framework: str, name: str | None) -> str | None:
    """Return why a file cannot be loaded with this interpreter."""
    if name is None:
        return f"no {framework} class for the model"
    if importlib.util.find_spec(_PACKAGES[framework]) is None:
        return f"{_PACKAGES[framework]} is not installed there"
    if getattr(transformers, name, None) is None:
        return f"transformers {transformers.__version__} has no {name}"
    return None


def _load(directory: str, kind: str, cls: Any, report: dict[str, Any]) -> dict[str, Any]:
    """Load the one weight file in `directory`, and run the model once."""
    framework = FRAMEWORKS[kind]
    # List tensors of a wrong shape by name; by default, loading them raises an error.
    arguments: dict[str, Any] = {"ignore_mismatched_sizes": True}
    if framework == "flax":
        model = cls.from_pretrained(directory, **arguments)
        model.params = model.to_fp32(model.params)
    else:
        arguments["use_safetensors"] = kind == "safetensors"
        model, info = cls.from_pretrained(directory, output_loading_info=True, **arguments)
        for field in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
            value = info.get(field) if hasattr(info, "get") else getattr(info, field, None)
            if value:  # mismatched keys come with both shapes
                names = (key[0] if isinstance(key, tuple | list) else key for key in value)
                report[field] = sorted(map(str, names))
    if framework == "pytorch":
        meta = [name for name, value in model.state_dict().items() if value.device.type == "meta"]
        if meta:
            report["error"] = f"left without values: {', '.join(meta[:6])}"
            return {}
        model = model.float().eval()
    report["loaded"] = True
    batch = _inputs(model, framework)
    report["inputs"] = {name: list(value.shape) for name, value in batch.items()}
    arrays = {
        name: np.asarray(value, np.float32)
        for name, value in _call(model, framework, batch).items()
        if hasattr(value, "shape") and not isinstance(value, tuple | list)
    }
    report["non_finite"] = sorted(n for n, value in arrays.items() if not np.isfinite(value).all())
    return arrays


def _call(model: Any, framework: str, batch: dict[str, Any]) -> Any:
    if framework == "pytorch":
        import torch

        with torch.no_grad():
            return model(**{name: torch.from_numpy(value) for name, value in batch.items()})
    if framework == "tensorflow":
        import tensorflow as tf

        tensors = {
            name: tf.constant(value, tf.int32 if value.dtype.kind == "i" else tf.float32)
            for name, value in batch.items()
        }
        return model(**tensors, training=False)
    return model(**batch, **_positions(model, batch))


def _inputs(model: Any, framework: str) -> dict[str, Any]:
    """Return a batch of two fixed samples, without special tokens (at the ends of vocabularies)."""
    stream = np.random.default_rng(0)

    def ids(config: Any, length: int, count: int = 2) -> Any:
        size = int(getattr(config, "vocab_size", None) or _CHARACTERS)
        low = min(5, size // 3)
        return stream.integers(low, max(low + 1, min(size, 30_000) - low), (count, length))

    def sample(config: Any) -> tuple[str, Any]:
        if hasattr(config, "patch_size") and hasattr(config, "image_size"):
            edge = config.image_size
            height, width = edge if isinstance(edge, list | tuple) else (edge, edge)
            size = (2, getattr(config, "num_channels", 3), height, width)
            return "pixel_values", stream.standard_normal(size).astype(np.float32)
        if hasattr(config, "conv_dim"):
            return "input_values", stream.standard_normal((2, 4000)).astype(np.float32)
        return "input_ids", ids(config, 9)

    config = model.config
    towers = [getattr(config, f"{kind}_config", None) for kind in ("vision", "text")]
    if all(hasattr(tower, "model_type") for tower in towers):
        return dict(map(sample, towers))
    encoder, decoder = (getattr(config, submodel, None) for submodel in ("encoder", "decoder"))
    if hasattr(encoder, "model_type") and hasattr(decoder, "model_type"):
        name, values = sample(encoder)
        return {name: values, "decoder_input_ids": ids(decoder, 7)}
    parts = [getattr(config, part, None) for part in ("question_encoder", "generator")]
    if all(hasattr(part, "model_type") for part in parts):
        question, generator = parts
        documents = ids(generator, 9, 2 * config.n_docs)
        return {
            "input_ids": ids(question, 9),
            "context_input_ids": documents,
            "context_attention_mask": np.ones_like(documents),
            "doc_scores": stream.standard_normal((2, config.n_docs)).astype(np.float32),
            "decoder_input_ids": ids(generator, 7),
        }
    name, values = sample(config)
    if name == "input_ids" and getattr(config, "is_encoder_decoder", False):
        return {name: values, "decoder_input_ids": ids(config, 7)}
    return {name: values}


def _positions(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """Return inputs whose defaults are wrong in some Flax classes.

    These are positions that start after the padding token's id, and token types.
    """
    config = model.config
    submodels = [getattr(config, submodel, None) for submodel in ("encoder", "decoder")]
    sides = [("position_ids", "input_ids", config)]
    if all(hasattr(submodel, "model_type") for submodel in submodels):
        sides = [
            ("position_ids", "input_ids", submodels[0]),
            ("decoder_position_ids", "decoder_input_ids", submodels[1]),
        ]
    parameters = inspect.signature(type(model).__call__).parameters
    inputs = {}
    if "token_type_ids" in parameters:
        inputs["token_type_ids"] = np.zeros_like(batch["input_ids"])
    for name, ids, part in sides:
        if ids in batch and name in parameters and _positions_follow_padding(part):
            length = batch[ids].shape[1]
            positions = np.arange(length) + (getattr(part, "pad_token_id", None) or 1) + 1
            inputs[name] = np.broadcast_to(positions, batch[ids].shape)
    return inputs


def _positions_follow_padding(config: Any) -> bool:
    module = config.model_type.replace("-", "_")
    try:
        code = importlib.import_module(f"transformers.models.{module}.modeling_flax_{module}")
    except ImportError:
        return False
    return hasattr(code, "create_position_ids_from_input_ids")


def _differences(outputs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each file but the first, the output that differs most from the first one's."""
    if not outputs:
        return []
    (first, mine), *others = outputs.items()
    differences = []
    for kind, theirs in others:
        gaps = {name: _gap(mine[name], theirs[name]) for name in mine if name in theirs}
        name = max(gaps, key=gaps.__getitem__, default=None)
        gap = None if name is None else min(gaps[name], 1e30)
        differences.append({"files": [first, kind], "output": name, "difference": gap})
    return differences


def _gap(first: Any, second: Any) -> float:
    """Return the largest relative difference; huge if shapes differ or values are not finite."""
    if first.shape != second.shape:
        return 1e30
    gap = float(np.max(np.abs(first - second), initial=0) / max(1.0, np.max(np.abs(first))))
    return gap if gap == gap else 1e30


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore")
    print(MARK + json.dumps(main(json.loads(sys.argv[1]))))

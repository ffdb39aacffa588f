"""Loads a checkpoint with transformers' own classes and prints what it saw, as one line of JSON.

Run by an interpreter of the user's choice, which has transformers and any of PyTorch, TensorFlow
and Flax, and need not have this package: this file imports nothing else. It works with
transformers 4 (three frameworks) and 5 (PyTorch alone).

Usage: ``python peer_script.py REQUEST``, where REQUEST is JSON with ``directory``, ``files`` (kind
→ names of the files to show to the loader) and ``classes`` (framework → class).
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

MARK = "converter-peer:"
"""What the line of the result begins with."""

FRAMEWORKS = {
    "safetensors": "pytorch",
    "bin": "pytorch",
    "h5": "tensorflow",
    "msgpack": "flax",
}
_PACKAGES = {"pytorch": "torch", "tensorflow": "tensorflow", "flax": "flax"}
_CHARACTERS = 128
"""Token ids of a model that has no vocabulary, but takes the numbers of characters."""
_DOCUMENTS = ("config.json", "generation_config.json")


class _Messages(logging.Handler):
    """Keeps what transformers says."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self.found.append(" ".join(record.getMessage().split()))


def main(request: dict[str, Any]) -> dict[str, Any]:
    """What each file is to its framework, and how far their outputs are apart."""
    import transformers

    messages = _Messages()
    logger = logging.getLogger("transformers")
    logger.handlers, logger.propagate = [messages], False
    logger.setLevel(logging.WARNING)
    found: dict[str, Any] = {"transformers": transformers.__version__, "files": {}, "skipped": {}}
    outputs: dict[str, dict[str, Any]] = {}
    for kind, names in request["files"].items():
        framework = FRAMEWORKS[kind]
        name = request["classes"].get(framework)
        if reason := _lacking(transformers, framework, name):
            found["skipped"][kind] = reason
            continue
        messages.found.clear()
        with tempfile.TemporaryDirectory(prefix="converter-") as place:
            for file in (*_DOCUMENTS, *names):
                origin = Path(request["directory"], file).resolve()
                if origin.exists():
                    (Path(place) / file).symlink_to(origin)
            report: dict[str, Any] = {"framework": framework, "class": name}
            try:
                outputs[kind] = _load(place, kind, getattr(transformers, name), report)
            except Exception as error:  # whatever it raises is what users will see
                report["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
                report["error"] = report["error"].replace(place, request["directory"])
        report["messages"] = [
            text.replace(place, request["directory"])[:500]
            for text in messages.found
            if "newly initialized" in text or ("not used when" in text and text[:4] != "All ")
        ]
        found["files"][kind] = report
    found["differences"] = _differences(outputs)
    return found


def _lacking(transformers: Any, framework: str, name: str | None) -> str | None:
    """Why a file cannot be tried here."""
    if name is None:
        return f"there is no {framework} class for the model"
    if importlib.util.find_spec(_PACKAGES[framework]) is None:
        return f"{_PACKAGES[framework]} is not installed there"
    if getattr(transformers, name, None) is None:
        return f"transformers {transformers.__version__} has no {name}"
    return None


def _load(place: str, kind: str, cls: Any, report: dict[str, Any]) -> dict[str, Any]:
    """Load the one file in `place`, and run the model once."""
    framework = FRAMEWORKS[kind]
    # Tensors of a wrong shape are to be listed by name; by default, loading ends with an error.
    arguments: dict[str, Any] = {"ignore_mismatched_sizes": True}
    if framework == "flax":
        model = cls.from_pretrained(place, **arguments)
        model.params = model.to_fp32(model.params)
    else:
        arguments["use_safetensors"] = kind == "safetensors"
        model, info = cls.from_pretrained(place, output_loading_info=True, **arguments)
        for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
            value = info.get(key) if hasattr(info, "get") else getattr(info, key, None)
            if value:  # with a wrong shape goes what it is and what it should be
                names = (one[0] if isinstance(one, tuple | list) else one for one in value)
                report[key] = sorted(map(str, names))
    if framework == "pytorch":
        meta = [name for name, value in model.state_dict().items() if value.device.type == "meta"]
        if meta:
            report["error"] = f"left without values: {', '.join(meta[:6])}"
            return {}
        model = model.float().eval()
    report["loaded"] = True
    batch = _inputs(model, framework)
    report["inputs"] = {name: list(value.shape) for name, value in batch.items()}
    output = {
        name: value
        for name, value in _call(model, framework, batch).items()
        if hasattr(value, "shape") and not isinstance(value, tuple | list)
    }
    arrays = {name: np.asarray(value, np.float32) for name, value in output.items()}
    report["broken"] = sorted(n for n, value in arrays.items() if not np.isfinite(value).all())
    return arrays


def _call(model: Any, framework: str, batch: dict[str, Any]) -> Any:
    if framework == "pytorch":
        import torch

        with torch.no_grad():
            return model(**{name: torch.from_numpy(value) for name, value in batch.items()})
    if framework == "tensorflow":
        import tensorflow as tf

        given = {
            name: tf.constant(value, tf.int32 if value.dtype.kind == "i" else tf.float32)
            for name, value in batch.items()
        }
        return model(**given, training=False)
    return model(**batch, **_positions(model, batch))


def _inputs(model: Any, framework: str) -> dict[str, Any]:
    """Two fixed samples; token ids keep away from the ends of the vocabulary, where the special
    ones are.
    """
    stream = np.random.default_rng(0)

    def ids(config: Any, length: int) -> Any:
        size = int(getattr(config, "vocab_size", None) or _CHARACTERS)
        low = min(5, size // 3)
        return stream.integers(low, max(low + 1, min(size, 30_000) - low), (2, length))

    def sample(config: Any) -> tuple[str, Any]:
        if hasattr(config, "patch_size") and hasattr(config, "image_size"):
            edges = config.image_size
            height, width = edges if isinstance(edges, list | tuple) else (edges, edges)
            size = (2, getattr(config, "num_channels", 3), height, width)
            return "pixel_values", stream.standard_normal(size).astype(np.float32)
        if hasattr(config, "conv_dim"):
            return "input_values", stream.standard_normal((2, 4000)).astype(np.float32)
        return "input_ids", ids(config, 9)

    config = model.config
    encoder, decoder = (getattr(config, submodel, None) for submodel in ("encoder", "decoder"))
    if hasattr(encoder, "model_type") and hasattr(decoder, "model_type"):
        name, values = sample(encoder)
        return {name: values, "decoder_input_ids": ids(decoder, 7)}
    name, values = sample(config)
    if name == "input_ids" and getattr(config, "is_encoder_decoder", False):
        return {name: values, "decoder_input_ids": ids(config, 7)}
    return {name: values}


def _positions(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """What some Flax classes get wrong unless it is said: positions that start behind the padding
    token's id, and token types.
    """
    config = model.config
    submodels = [getattr(config, submodel, None) for submodel in ("encoder", "decoder")]
    sides = [("position_ids", "input_ids", config)]
    if all(hasattr(submodel, "model_type") for submodel in submodels):
        sides = [
            ("position_ids", "input_ids", submodels[0]),
            ("decoder_position_ids", "decoder_input_ids", submodels[1]),
        ]
    known = inspect.signature(type(model).__call__).parameters
    given = {}
    if "token_type_ids" in known:
        given["token_type_ids"] = np.zeros_like(batch["input_ids"])
    for name, ids, part in sides:
        if ids in batch and name in known and _starts_behind_padding(part):
            length = batch[ids].shape[1]
            places = np.arange(length) + (getattr(part, "pad_token_id", None) or 1) + 1
            given[name] = np.broadcast_to(places, batch[ids].shape)
    return given


def _starts_behind_padding(config: Any) -> bool:
    module = config.model_type.replace("-", "_")
    try:
        code = importlib.import_module(f"transformers.models.{module}.modeling_flax_{module}")
    except ImportError:
        return False
    return hasattr(code, "create_position_ids_from_input_ids")


def _differences(outputs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """For each file but the first, the output that is furthest from the first one's."""
    if not outputs:
        return []
    (first, mine), *others = outputs.items()
    found = []
    for kind, theirs in others:
        gaps = {name: _gap(mine[name], theirs[name]) for name in mine if name in theirs}
        name = max(gaps, key=gaps.__getitem__, default=None)
        found.append(
            {
                "files": [first, kind],
                "output": name,
                "difference": None if name is None else min(gaps[name], 1e30),
            }
        )
    return found


def _gap(first: Any, second: Any) -> float:
    """Largest difference relative to the largest value; huge where shapes or numbers are none."""
    if first.shape != second.shape:
        return 1e30
    gap = float(np.max(np.abs(first - second), initial=0) / max(1.0, np.max(np.abs(first))))
    return gap if gap == gap else 1e30


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore")
    print(MARK + json.dumps(main(json.loads(sys.argv[1]))))

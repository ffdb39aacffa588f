"""Checks of a checkpoint by the frameworks: loaded completely, equal values, finite outputs.

Each weight file is isolated in a directory of symbolic links, because transformers may prefer
another framework's file. Everything that transformers only logs (a missing, unexpected or newly
initialized tensor) is a problem here, and so is any loaded value that differs from the file's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tests.transformers.models import OFFSET_POSITIONS, PREFIXES
from tests.transformers.rounding import (
    TOLERANCE,
    Measure,
    Outputs,
    difference,
    is_rounding,
    moved_outputs,
)
from tests.transformers.weight_files import (
    COMBINED,
    FILES,
    FRAMEWORKS,
    captured,
    configuration,
    flax_zeros,
    isolated,
    kinds,
    read_h5,
    read_msgpack,
)


@dataclass
class Loaded:
    """One weight file as its framework loads it."""

    kind: str
    problems: list[str] = field(default_factory=list)
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    """Every floating output of a forward pass on fixed inputs, in float32."""
    stored: dict[str, np.ndarray] = field(default_factory=dict)
    """The tensors in the file, in its names and layout; 16-bit values widened to float32."""
    dtypes: set[str] = field(default_factory=set)
    model: Any = None
    run_again: Callable[[], Outputs] | None = None
    """Returns the outputs once more, if PyTorch in this process computed them."""

    @cached_property
    def moved(self) -> list[Outputs]:
        """Outputs of `moved_outputs`, by which `agree` judges."""
        return moved_outputs(self.model, self.run_again) if self.run_again else []

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Hash of the sorted values → name, once all are loaded; independent of the layout."""
        return {
            hashlib.sha256(np.sort(value, axis=None).tobytes()).hexdigest(): name
            for name, value in self.stored.items()
        }


def native_class(config: dict[str, Any], framework: str) -> str:
    """Return the class of the checkpoint's architecture in one framework."""
    name = str(config["architectures"][0])
    for prefix in ("TF", "Flax"):
        name = name.removeprefix(prefix)
    if framework == "flax" and name == "BertLMHeadModel":
        name = "BertForCausalLM"
    if framework != "flax" and name == "BertForCausalLM":
        name = "BertLMHeadModel"
    return PREFIXES[framework] + name


def inputs(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Return token ids that avoid the special ones, two sequences per side."""
    stream = np.random.default_rng(seed)

    def ids(part: dict[str, Any], length: int) -> np.ndarray:
        return stream.integers(5, min(part["vocab_size"], 30000) - 5, (2, length))

    if config["model_type"] == COMBINED:
        return {
            "input_ids": ids(config["encoder"], 9),
            "decoder_input_ids": ids(config["decoder"], 7),
        }
    return {"input_ids": ids(config, 9)}


def load(directory: Path, kind: str, name: str | None = None) -> Loaded:
    """Load one weight file in its framework and report everything that is wrong."""
    config = configuration(directory)
    framework = FRAMEWORKS[kind]
    loaded = Loaded(kind)
    with isolated(directory, kind) as path, captured() as messages:
        try:
            reader = {"pytorch": _pytorch, "tensorflow": _tensorflow, "flax": _flax}[framework]
            reader(loaded, path, name or native_class(config, framework), config)
        except Exception as error:  # any exception of transformers is a finding
            loaded.problems.append(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
    loaded.problems += [
        f"warning: {text[:300]}"
        for text in messages
        if "newly initialized" in text or ("were not used when" in text and "All " not in text[:5])
    ]
    for key, value in loaded.outputs.items():
        if not np.isfinite(value).all():
            loaded.problems.append(f"output {key} is not finite")
    for key, value in loaded.stored.items():
        if not np.isfinite(value).all():
            loaded.problems.append(f"tensor {key} is not finite")
    return loaded


def check(
    directory: Path,
    only: tuple[str, ...] | None = None,
    name: str | None = None,
    tolerance: float = TOLERANCE,
    values: bool = True,
) -> dict[str, Loaded]:
    """Assert that a directory is correct in every framework that it has a file for.

    Args:
        directory: the checkpoint.
        only: the weight files that must be there, no more and no fewer.
        name: PyTorch class to load, if not the one in ``architectures``.
        tolerance: for outputs across frameworks, relative to the largest output.
        values: if true, the files must have the same values bit for bit (not after a cast that
            only one format needs).

    """
    actual = kinds(directory)
    if only is not None:
        assert set(actual) == set(only), f"{directory} holds {actual}, not {only}"
    assert actual, f"no weight file in {directory}"
    loaded = {
        kind: load(directory, kind, PREFIXES[FRAMEWORKS[kind]] + name if name else None)
        for kind in actual
    }
    problems = [f"{kind}: {text}" for kind, item in loaded.items() for text in item.problems]
    first, *others = loaded.values()
    for other in others:
        problems += compare(first, other, tolerance, values)
    assert not problems, "\n".join([str(directory), *problems])
    return loaded


def agree(
    first: Loaded, second: Loaded, key: str, tolerance: float, measure: Measure = difference
) -> bool:
    """Return whether two frameworks compute the same output, but for rounding."""
    gap = measure(first.outputs[key], second.outputs[key])
    return gap <= tolerance or any(
        is_rounding(gap, tolerance, each.outputs[key], [run[key] for run in each.moved], measure)
        for each in (first, second)
    )


def compare(
    first: Loaded, second: Loaded, tolerance: float = TOLERANCE, values: bool = True
) -> list[str]:
    """Report where two frameworks disagree on one checkpoint."""
    pair = f"{first.kind} and {second.kind}"
    problems = []
    for key in first.outputs.keys() & second.outputs.keys():
        if not agree(first, second, key, tolerance):
            gap = difference(first.outputs[key], second.outputs[key])
            problems.append(f"{pair}: {key} differ by {gap:.1e}")
    if first.outputs and second.outputs and not first.outputs.keys() & second.outputs.keys():
        problems.append(f"{pair}: no output in common")
    if values:
        one, two = first.fingerprints, second.fingerprints
        for loaded, mine, theirs in ((first, one, two), (second, two, one)):
            alone = sorted(name for value, name in mine.items() if value not in theirs)
            if alone:
                problems.append(f"{pair}: values only in {loaded.kind}: {alone[:6]} ({len(alone)})")
    return problems


def _compare(loaded: Loaded, native: dict[str, np.ndarray]) -> None:
    """Compare the file with the loaded model, in both directions and value by value."""
    for text, names in (
        ("model tensors with no file tensor", native.keys() - loaded.stored.keys()),
        ("file tensors not in the model", loaded.stored.keys() - native.keys()),
        (
            "loaded value is not the file's",
            {
                key
                for key in native.keys() & loaded.stored.keys()
                if not np.array_equal(native[key].astype(np.float32), loaded.stored[key])
            },
        ),
    ):
        if names:
            loaded.problems.append(f"{text}: {sorted(names)[:6]} ({len(names)})")


def _report(loaded: Loaded, info: dict[str, Any]) -> None:
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if info.get(key):
            actual = sorted(map(str, info[key]))
            loaded.problems.append(f"{key}: {actual[:6]} ({len(actual)})")


def _keep_outputs(loaded: Loaded, output: Any) -> None:
    for key, value in output.items():
        if hasattr(value, "shape") and not isinstance(value, (tuple, list)):
            array = np.asarray(value)
            if array.dtype.kind == "f":
                one = array.shape == (1,)  # a loss of TensorFlow
                loaded.outputs[key] = (array[0] if one else array).astype(np.float32)


def _pytorch(loaded: Loaded, directory: Path, name: str, config: dict[str, Any]) -> None:
    import torch
    import transformers
    from safetensors.torch import load_file

    safe = loaded.kind == "safetensors"
    model, info = getattr(transformers, name).from_pretrained(
        directory, output_loading_info=True, use_safetensors=safe
    )
    _report(loaded, info)
    path = directory / FILES[loaded.kind]
    stored = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    loaded.dtypes = {str(value.dtype).removeprefix("torch.") for value in stored.values()}
    loaded.stored = {
        key: value.float().numpy() for key, value in stored.items() if value.is_floating_point()
    }
    native = model.state_dict(keep_vars=True)
    meta = [key for key, value in native.items() if value.device.type == "meta"]
    if meta:
        loaded.problems.append(f"meta tensors: {meta[:6]} ({len(meta)})")
        return
    covered = {_place(native[key]) for key in stored if key in native}
    _compare(
        loaded,
        {
            key: value.detach().float().numpy()
            for key, value in native.items()
            if value.is_floating_point()
            and (key in stored or _place(value) not in covered)  # a tied name may be absent
        },
    )
    loaded.model = model.float().eval()
    run_pytorch(loaded, inputs(config))


def run_pytorch(loaded: Loaded, batch: Mapping[str, np.ndarray]) -> None:
    """Keep the outputs of a PyTorch model, and the means to compute them again."""
    import torch

    tensors = {key: torch.from_numpy(value) for key, value in batch.items()}

    def run() -> Outputs:
        again = Loaded(loaded.kind)
        with torch.no_grad():
            _keep_outputs(again, loaded.model(**tensors))
        return again.outputs

    loaded.run_again, loaded.outputs = run, {**run()}


def _place(tensor: Any) -> tuple[int, tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape)


def _tensorflow(loaded: Loaded, directory: Path, name: str, config: dict[str, Any]) -> None:
    import tensorflow as tf
    import transformers

    model, info = getattr(transformers, name).from_pretrained(
        directory, output_loading_info=True, use_safetensors=False
    )
    _report(loaded, info)
    stored, repeated = read_h5(directory / FILES["h5"])
    if repeated and config["model_type"] == COMBINED:
        loaded.problems.append(f"stored twice: {repeated[:6]} ({len(repeated)})")
    loaded.dtypes = {str(value.dtype) for value in stored.values()}
    loaded.stored = {key: value.astype(np.float32) for key, value in stored.items()}
    _compare(loaded, {w.name.split("/", 1)[-1]: w.numpy() for w in model.weights})
    loaded.model = model
    batch = {key: tf.constant(value, tf.int32) for key, value in inputs(config).items()}
    _keep_outputs(loaded, model(**batch, training=False))


def _flax(loaded: Loaded, directory: Path, name: str, config: dict[str, Any]) -> None:
    import jax.numpy as jnp
    import transformers
    from flax.traverse_util import flatten_dict

    with flax_zeros():
        model = getattr(transformers, name).from_pretrained(directory)
    stored = read_msgpack(directory / FILES["msgpack"])
    loaded.dtypes = {str(value.dtype) for value in stored.values()}
    loaded.stored = {key: np.asarray(value, np.float32) for key, value in stored.items()}
    native = {key: np.asarray(value) for key, value in flatten_dict(model.params, sep="/").items()}
    required = {"/".join(key) for key in model.required_params}
    _compare(loaded, {key: value for key, value in native.items() if key in required})
    if {value.dtype for value in native.values()} != {np.dtype(np.float32)}:
        model.params = model.to_fp32(model.params)
    loaded.model = model
    batch = {key: jnp.asarray(value, jnp.int32) for key, value in inputs(config).items()}
    if config["model_type"] == "electra":  # FlaxElectra's own default is all ones, which is wrong
        batch["token_type_ids"] = jnp.zeros_like(batch["input_ids"])
    sides = (
        (
            ("encoder", "position_ids", "input_ids"),
            ("decoder", "decoder_position_ids", "decoder_input_ids"),
        )
        if config["model_type"] == COMBINED
        else ((None, "position_ids", "input_ids"),)
    )
    for side, key, ids in sides:
        part = config[side] if side else config
        if part["model_type"] in OFFSET_POSITIONS:  # the Flax classes count from 0, which is wrong
            start = part.get("pad_token_id", 1) + 1  # 1 is the default of all four
            shape = batch[ids].shape
            batch[key] = jnp.broadcast_to(jnp.arange(shape[1]) + start, shape)
    _keep_outputs(loaded, model(**batch))

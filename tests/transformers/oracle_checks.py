"""Loading of one weight file by its framework, with any class and any inputs.

`oracle` lists what can be wrong; here class and inputs are arguments, so that models of any
modality can be checked, also those that load but cannot run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from tests.transformers import oracle
from tests.transformers.oracle import FILES, FRAMEWORKS, Loaded
from tests.transformers.weight_files import flax_zeros

Batch = Mapping[str, np.ndarray]


def without(values: Mapping[str, Any], texts: tuple[str, ...]) -> dict[str, Any]:
    """Return the values whose names contain none of the texts."""
    return {key: value for key, value in values.items() if not any(text in key for text in texts)}


def load(
    directory: Path, kind: str, name: str, batch: Batch | None, computed: tuple[str, ...] = ()
) -> Loaded:
    """Load one weight file with class ``name``; run it on ``batch`` unless that is ``None``.

    A file may lack tensors whose name contains a text of ``computed``; they are not reported.
    """
    loaded = Loaded(kind)
    reader = {"pytorch": _pytorch, "tensorflow": _tensorflow, "flax": _flax}[FRAMEWORKS[kind]]
    weightless: set[str] = set()
    with oracle.isolated(directory, kind) as path, oracle.captured() as messages:
        try:
            weightless = reader(loaded, path, name, batch, computed) or set()
        except Exception as error:  # any exception of transformers is a finding
            loaded.problems.append(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
    loaded.problems += [
        f"warning: {text[:300]}"
        for text in messages
        if "newly initialized" in text or ("were not used when" in text and "All " not in text[:5])
        if not weightless.issuperset(re.findall(r"'([^']+)'", text) or [""])
    ]
    loaded.stored = without(loaded.stored, computed)
    for group in (loaded.outputs, loaded.stored):
        for key, value in group.items():
            if not np.isfinite(value).all():
                loaded.problems.append(f"{key} is not finite")
    if batch is not None and not loaded.outputs and not loaded.problems:
        loaded.problems.append("no floating output")
    return loaded


def _pytorch(
    loaded: Loaded, path: Path, name: str, batch: Batch | None, computed: tuple[str, ...]
) -> None:
    import transformers
    from safetensors.torch import load_file

    model, info = getattr(transformers, name).from_pretrained(
        path, output_loading_info=True, use_safetensors=True
    )
    oracle._report(loaded, info)
    stored = load_file(path / FILES["safetensors"])
    loaded.stored = {key: value.float().numpy() for key, value in stored.items()}
    native = model.state_dict(keep_vars=True)
    covered = {oracle._place(native[key]) for key in stored if key in native}
    oracle._compare(
        loaded,
        {
            key: value.detach().float().numpy()
            for key, value in native.items()
            if (key in stored or oracle._place(value) not in covered)  # a tied name may be absent
            and (key in stored or without({key: value}, computed))
        },
    )
    loaded.model = model.eval()
    if batch is not None:
        oracle.run_pytorch(loaded, batch)


def _tensorflow(
    loaded: Loaded, directory: Path, name: str, batch: Batch | None, computed: tuple[str, ...]
) -> set[str]:
    """Load the file and return the layers without weights.

    Transformers reports those (dropouts, numbered differently in each process) as missing even
    from a file that it saved itself.
    """
    import transformers

    model, info = getattr(transformers, name).from_pretrained(
        directory, output_loading_info=True, use_safetensors=False
    )
    weightless = {layer.name for layer in model.layers if not layer.weights}
    info["missing_keys"] = [key for key in info["missing_keys"] if key not in weightless]
    oracle._report(loaded, info)
    stored, _ = oracle.read_h5(directory / FILES["h5"])
    loaded.stored = {key: value.astype(np.float32) for key, value in stored.items()}
    oracle._compare(loaded, {w.name.split("/", 1)[-1]: w.numpy() for w in model.weights})
    loaded.model = model
    if batch is not None:
        oracle._keep_outputs(loaded, run_tensorflow(model, batch))
    return weightless


def run_tensorflow(model: Any, batch: Batch) -> Any:
    """Return the outputs of a TensorFlow model."""
    import tensorflow as tf

    tensors = {
        key: tf.constant(value, tf.float32 if value.dtype.kind == "f" else tf.int32)
        for key, value in batch.items()
    }
    return model(**tensors, training=False)


def _flax(
    loaded: Loaded, directory: Path, name: str, batch: Batch | None, computed: tuple[str, ...]
) -> None:
    import transformers
    from flax.traverse_util import flatten_dict

    with flax_zeros():
        model = getattr(transformers, name).from_pretrained(directory)
    stored = oracle.read_msgpack(directory / FILES["msgpack"])
    loaded.stored = {key: np.asarray(value, np.float32) for key, value in stored.items()}
    native = {key: np.asarray(value) for key, value in flatten_dict(model.params, sep="/").items()}
    required = {"/".join(key) for key in model.required_params}
    oracle._compare(loaded, {key: value for key, value in native.items() if key in required})
    loaded.model = model
    if batch is not None:
        oracle._keep_outputs(loaded, run_flax(model, batch))


def run_flax(model: Any, batch: Batch) -> Any:
    """Return the outputs of a Flax model."""
    import jax.numpy as jnp

    speech = "inputs" in signature(type(model).__call__).parameters
    other = "inputs" if speech else "input_values"  # the name in FlaxSpeechEncoderDecoderModel
    tensors = {
        other if key == "input_values" else key: jnp.asarray(
            value, jnp.float32 if value.dtype.kind == "f" else jnp.int32
        )
        for key, value in batch.items()
    }
    return model(**tensors)

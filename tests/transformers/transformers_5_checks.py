"""Checks of the tables whose classes only transformers 5 has: it builds, loads, runs and saves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

import converter
from converter.architectures.schema import ModelClass
from tests.transformers import oracle
from tests.transformers.submodel_checks import new_tensors
from tests.transformers.tiny import LIBRARY, Tiny, model_of, source_fields, tiny
from tests.transformers.transformers_5 import Transformers5
from tests.transformers.weight_files import FILES


def check_round_trip(
    path: Path, transformers_5: Transformers5, spec: Tiny, model: ModelClass, variant: str
) -> None:
    """Assert that a model is the same after a conversion, in its file and in its outputs."""
    source, name = path / "source", model.classes["pytorch"]
    fields = source_fields(spec.architecture, model, variant)
    transformers_5.build(source, spec.architecture, name, fields)
    batch = spec.batch("pytorch", model=model.name, variant=variant)
    runs = spec.can_run(name, variant)
    _check_conversion(source, path / "converted", transformers_5, name, batch if runs else None)


def check_composition(
    path: Path,
    transformers_5: Transformers5,
    spec: Tiny,
    role: str,
    variant: str,
    partner: Path,
    options: Mapping[str, Any],
) -> None:
    """Assert that a composed model has the values of its sources, is complete, and runs.

    Outputs are compared with noise on every parameter, including new cross-attention.
    """
    model = model_of(spec.architecture, role)
    own, out, noisy = path / "own", path / "composed", path / "noisy"
    fields = source_fields(spec.architecture, model, variant)
    transformers_5.build(own, spec.architecture, model.classes["pytorch"], fields)
    other = "decoder" if role == "encoder" else "encoder"
    sources = {role: own, other: partner}
    converter.compose(sources["encoder"], sources["decoder"], out, seed=3, **options)

    config = json.loads((out / "config.json").read_text())
    name = LIBRARY.composite(config["model_type"]).classes["pytorch"]
    loaded = transformers_5.load(out, name, None, spec.keep)
    assert loaded is not None and not loaded.problems, loaded
    composed = load_file(out / FILES["safetensors"])
    copied = {
        f"{submodel}.{key}": value
        for submodel, source in sources.items()
        for key, value in load_file(source / FILES["safetensors"]).items()
    }
    assert all(np.array_equal(composed[key], value) for key, value in copied.items())
    assert len(composed.keys() - copied.keys()) == len(new_tensors(out))

    transformers_5.add_noise(out, noisy, name, spec.keep)
    specs, variants = {role: spec, other: tiny("bert")}, {role: variant}
    batch = {
        **specs["encoder"].batch("pytorch", variant=variants.get("encoder", "")),
        **specs["decoder"].batch("pytorch", "decoder_", 1, variant=variants.get("decoder", "")),
    }
    runs = spec.can_run(role, variant)
    _check_conversion(noisy, path / "all", transformers_5, name, batch if runs else None)


def _check_conversion(
    source: Path,
    out: Path,
    transformers_5: Transformers5,
    name: str,
    batch: Mapping[str, np.ndarray] | None,
) -> None:
    converter.convert(source, out)
    files = [load_file(directory / FILES["safetensors"]) for directory in (source, out)]
    assert files[0].keys() == files[1].keys()
    assert all(np.array_equal(value, files[1][key]) for key, value in files[0].items())
    results = []
    for directory in (source, out):
        loaded = transformers_5.load(directory, name, batch)
        assert loaded is not None, f"transformers 5 has no {name}"
        assert not loaded.problems, loaded.problems
        assert batch is None or loaded.outputs
        results.append(loaded)
    problems = oracle.compare(results[0], results[1])
    assert not problems, "\n".join(problems)

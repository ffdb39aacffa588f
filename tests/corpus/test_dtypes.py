"""Casts: to the nearest, ties to even; overflow is counted and reported; integers are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import converter
from tests.corpus.conversion_checks import CONFIG, HEAD
from tests.factories import model_spec, stored, write

BF16 = np.dtype(ml_dtypes.bfloat16)
NAME = "bert.encoder.layer.0.intermediate.dense.bias"
OTHER = "bert.encoder.layer.1.output.dense.bias"


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return stored(model_spec(CONFIG, HEAD))


def written(arrays: dict[str, np.ndarray], home: Path, **options: Any) -> tuple[Any, Path]:
    write(home / "source", CONFIG, arrays)
    return converter.convert(home / "source", home / "out", **options), home / "out"


def ties(dtype: str) -> np.ndarray:
    """Return float32 values halfway between two of `dtype`, next to them, and out of range."""
    bits = {"float16": 10, "bfloat16": 7}[dtype]
    steps = np.arange(1, 41, dtype=np.float64)
    return (1 + steps * 2.0 ** -(bits + 1)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_ties_go_to_even(dtype: str, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    arrays[NAME] = ties(dtype)
    _, out = written(arrays, tmp_path, dtype=dtype, to=["pytorch", "flax"])
    torch_values = load_file(out / "model.safetensors")[NAME]
    bits = {"float16": 10, "bfloat16": 7}[dtype]
    steps = np.arange(1, 41) / 2  # in units of the last place; numpy rounds halves to even
    exact = 1 + np.round(steps) * 2.0**-bits
    np.testing.assert_array_equal(torch_values.astype(np.float64), exact)


def test_overflow_is_reported(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    arrays[NAME][:3] = [1e5, -7e4, 65519.0]  # the last rounds down to the largest float16
    arrays[OTHER][5] = 65520.0
    result, out = written(arrays, tmp_path, dtype="float16")
    assert result.overflowed == {NAME.removeprefix("bert."): 2, OTHER.removeprefix("bert."): 1}
    messages = [warning for warning in result.warnings if "too large" in warning]
    assert len(messages) == 2
    assert messages[0].startswith(NAME.removeprefix("bert.") + ": 2 value(s)")
    assert set(messages) <= set(result.to_dict()["warnings"])
    manifest = json.loads((out / "converter-manifest.json").read_text())
    assert set(messages) <= set(manifest["warnings"])
    actual = load_file(out / "model.safetensors")[NAME]
    np.testing.assert_array_equal(actual[:3], np.array([np.inf, -np.inf, 65504], np.float16))


def test_values_that_are_not_finite_are_reported_and_kept(
    arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    arrays[NAME][:4] = [np.nan, np.inf, -np.inf, 1]
    result, out = written(arrays, tmp_path)
    assert result.non_finite == {NAME.removeprefix("bert."): 3}
    assert any("infinite or not a number" in warning for warning in result.warnings)
    actual = load_file(out / "model.safetensors")[NAME]
    np.testing.assert_array_equal(actual, arrays[NAME])


@pytest.mark.parametrize("dtype", ["float32", "float16", "keep"])
def test_sources_in_double_precision(
    dtype: str, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    doubles = {name: array.astype(np.float64) + 1e-9 for name, array in arrays.items()}
    _, out = written(doubles, tmp_path, dtype=dtype)
    expected = np.float64 if dtype == "keep" else np.dtype(dtype)
    for name, values in load_file(out / "model.safetensors").items():
        assert values.dtype == expected
        np.testing.assert_array_equal(values, doubles[name].astype(expected))


def test_mixed_dtypes_are_kept(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    kinds = [np.float32, np.float16, BF16, np.float64]
    mixed = {
        name: array.astype(kinds[number % 4]) for number, (name, array) in enumerate(arrays.items())
    }
    result, out = written(mixed, tmp_path)
    for name, values in load_file(out / "model.safetensors").items():
        assert values.dtype == mixed[name].dtype
        assert values.tobytes() == mixed[name].tobytes()
    assert any("tf_model.h5: bfloat16 is written as float32" in text for text in result.warnings)


def test_bfloat16_is_widened_in_hdf5_without_loss(
    arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    submodels = {name: array.astype(BF16) for name, array in arrays.items()}
    result, out = written(submodels, tmp_path)
    assert any("tf_model.h5: bfloat16 is written as float32" in text for text in result.warnings)
    converter.convert(out / "tf_model.h5", tmp_path / "back", to=["pytorch"], dtype="bfloat16")
    for name, values in load_file(tmp_path / "back/model.safetensors").items():
        assert values.tobytes() == submodels[name].tobytes(), name

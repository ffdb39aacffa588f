"""Checks that a conversion keeps every value of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

import converter
from converter.execution.write_checkpoint import WriteResult
from converter.formats.registry import open_file
from tests.factories import model_spec, tiny_config

Array = np.ndarray[Any, np.dtype[Any]]

CONFIG = tiny_config("bert", tie_word_embeddings=True)
"""The model in the files of the corpus, unless stated otherwise."""
HEAD = "BertForMaskedLM"


def names_of(model: str = HEAD) -> dict[str, str]:
    """Canonical name → PyTorch's name in a model of the class."""
    return {param.name: param.canonical.name for param in model_spec(CONFIG, model).params}


def converted(
    source: Path, config: Path, expected: Mapping[str, Array], out: Path, **options: Any
) -> WriteResult:
    """Convert `source` to PyTorch, and compare with the values by PyTorch's names."""
    result = converter.convert(source, out, config=config, to=["pytorch"], **options)
    actual = load_file(out / "model.safetensors")
    assert actual.keys() <= expected.keys()
    missing = expected.keys() - actual.keys()
    assert all("decoder" in name for name in missing), missing  # the tied output layer
    for name, values in actual.items():
        assert values.dtype == expected[name].dtype, name
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    return result


def same_as_library(path: Path, theirs: Mapping[str, Array]) -> None:
    """Assert that the reader agrees with the format's own library, bit for bit."""
    with open_file(path) as reader:
        assert reader.tensors.keys() == theirs.keys()
        for name, tensor in reader.tensors.items():
            values, expected = tensor.read(), theirs[name]
            assert values.dtype == expected.dtype, name
            assert values.shape == expected.shape, name
            assert values.tobytes() == np.ascontiguousarray(expected).tobytes(), name

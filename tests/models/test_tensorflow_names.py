"""Names in TensorFlow files that lack the ``:0`` of ``tf_model.h5``, or the scope of the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from safetensors.numpy import load_file

import converter
from converter.errors import MatchError
from tests.factories import model_spec, stored, tiny_config
from tests.formats import tensorflow_checkpoints
from tests.formats.keras_files import keras_file
from tests.formats.tensorflow_checkpoints import node, write_objects


@pytest.fixture(autouse=True)
def _quick_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow_checkpoints, "crc32c", google_crc32c.value)


MODELS = {"bert": "BertForMaskedLM", "bart": "BartForConditionalGeneration"}
BART: dict[str, Any] = {
    "vocab_size": 29,
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 14,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 10,
}
OUTSIDE = ("model.shared/", "final_logits_bias")


def variables(architecture: str, scope: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the variables of a model under TensorFlow's own names, with the scopes around it."""
    sizes = BART if architecture == "bart" else {}
    config = tiny_config(architecture, **sizes, architectures=[MODELS[architecture]])
    arrays = stored(model_spec(config, MODELS[architecture]), "tensorflow")
    names = {name: f"{scope}{name}" for name in arrays}
    names |= {name: f"model.shared/{name}" for name in arrays if name.startswith(OUTSIDE[0])}
    names |= {name: name for name in arrays if name.startswith(OUTSIDE[1])}
    assert (len(set(names.values())) == len(arrays)) and ":0" in scope + next(iter(arrays))
    return config, {names[name]: array for name, array in arrays.items()}


def write(path: Path, arrays: dict[str, np.ndarray], head: dict[str, np.ndarray]) -> Path:
    """Write a checkpoint, object-based or of two layers."""
    if path.suffix == ".h5":
        return keras_file(path, {"tf_model": arrays, "dense": head})
    names = [name.removesuffix(":0") for name in (*arrays, *head)]
    keys = {f"variables/{n}": array for n, array in enumerate((*arrays.values(), *head.values()))}
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    nodes = [node(variable=(name, key + suffix)) for name, key in zip(names, keys, strict=True)]
    return write_objects(path, keys, nodes)


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("file", ["weights.h5", "weights.index"])
@pytest.mark.parametrize("scope", ["tf_model/", "mine/tf_model_1/"])
def test_the_scope_of_the_model_is_removed_where_it_is(
    scope: str, file: str, architecture: str, tmp_path: Path
) -> None:
    config, arrays = variables(architecture, scope)
    head = {"dense/kernel:0": np.zeros((3, 4), np.float32)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = write(tmp_path / file, arrays, head)
    with pytest.raises(MatchError, match=r'ignore=\["dense/\*"\]') as caught:
        converter.convert(source, tmp_path / "out")
    assert len(caught.value.problems) == 1
    converter.convert(source, tmp_path / "out", ignore=["dense/*"])
    expected = stored(model_spec(config, MODELS[architecture]))
    read = load_file(tmp_path / "out/model.safetensors")
    for name, array in read.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_a_variable_outside_the_scope_is_not_the_models(tmp_path: Path) -> None:
    """Only names that transformers itself puts there are."""
    config, arrays = variables("bert", "tf_model/")
    moved = "bert/embeddings/LayerNorm/gamma:0"
    arrays[moved] = arrays.pop(f"tf_model/{moved}")
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = write(tmp_path / "weights.index", arrays, {})
    with pytest.raises(MatchError, match=r"gamma:0: missing tensor"):
        converter.convert(source, tmp_path / "out")

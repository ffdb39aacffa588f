"""Files that TensorFlow's models wrote: Keras HDF5, of every make, and safetensors in its names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file

import converter
from converter.errors import FormatError
from converter.formats.registry import open_file
from tests.transformers.rounding import assert_close

pytest.importorskip("tensorflow")
pytest.importorskip("transformers")
pytestmark = pytest.mark.peer

SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
GPT2 = {"vocab_size": 61, "n_embd": 28, "n_layer": 2, "n_head": 4, "n_positions": 30}
CROSS = {"is_decoder": True, "add_cross_attention": True}


def shaken(model: Any) -> Any:
    """Build the model, with noise on every weight."""
    model(model.dummy_inputs)
    stream = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign_add(stream.standard_normal(weight.shape).astype(np.float32) * 0.1)
    return model


def weights_of(model: Any) -> dict[str, np.ndarray]:
    """Every weight by its name without the instance's."""
    return {weight.name.partition("/")[2]: weight.numpy() for weight in model.weights}


def joined(directory: Path, decoder: str, *, in_use: bool) -> Any:
    """Save a model made of two others as HDF5."""
    import tensorflow as tf
    import transformers

    first = transformers.TFBertModel(transformers.BertConfig(**SIZES))
    if decoder == "bert":
        config = transformers.BertConfig(**SIZES, **CROSS)
        second = transformers.TFBertLMHeadModel(config)
    else:
        second = transformers.TFGPT2LMHeadModel(transformers.GPT2Config(**GPT2, **CROSS))
    if in_use:
        shaken(first)
        if decoder == "bert":
            shaken(second)
    model = transformers.TFEncoderDecoderModel(encoder=first, decoder=second)
    ids = tf.constant([[5, 6, 7]])
    model(input_ids=ids, decoder_input_ids=ids)
    stream = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign_add(stream.standard_normal(weight.shape).astype(np.float32) * 0.1)
    model.save_pretrained(directory, safe_serialization=False)
    return model


@pytest.mark.parametrize("in_use", [True, False], ids=["built before", "built as one"])
@pytest.mark.parametrize("decoder", ["bert", "gpt2"])
def test_a_model_made_of_models(decoder: str, in_use: bool, tmp_path: Path) -> None:
    import tensorflow as tf
    import torch
    import transformers

    model = joined(tmp_path / "source", decoder, in_use=in_use)
    with h5py.File(tmp_path / "source/tf_model.h5") as file:
        assert "encoder" not in file.attrs["layer_names"]
    converter.convert(tmp_path / "source", tmp_path / "out")
    ids = np.array([[5, 6, 7, 8]])
    theirs = model(input_ids=tf.constant(ids), decoder_input_ids=tf.constant(ids)).logits.numpy()
    ours, messages = transformers.EncoderDecoderModel.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(messages.values())
    ours.eval()

    def run() -> np.ndarray:
        with torch.no_grad():
            output = ours(input_ids=torch.tensor(ids), decoder_input_ids=torch.tensor(ids))
        return np.asarray(output.logits)

    assert_close(theirs, ours, run)


@pytest.mark.parametrize("labelled", [True, False], ids=["format tf", "no metadata"])
@pytest.mark.parametrize("name", ["TFBertModel", "TFBertForMaskedLM"])
def test_safetensors_in_tensorflow_names(name: str, labelled: bool, tmp_path: Path) -> None:
    import transformers

    model = shaken(getattr(transformers, name)(transformers.BertConfig(**SIZES)))
    model.save_pretrained(tmp_path / "source", safe_serialization=True)
    unlabelled(tmp_path / "source/model.safetensors", labelled)
    result = converter.convert(tmp_path / "source", tmp_path / "out", to=["tensorflow"])
    assert result.sources[0].key_match.dialect == "tensorflow"
    same_weights(tmp_path / "out/tf_model.h5", weights_of(model))


@pytest.mark.parametrize("labelled", [True, False], ids=["format flax", "no metadata"])
def test_safetensors_in_flax_names(labelled: bool, tmp_path: Path) -> None:
    pytest.importorskip("flax")
    import transformers

    model = transformers.FlaxBertForMaskedLM(transformers.BertConfig(**SIZES))
    model.save_pretrained(tmp_path / "source", safe_serialization=True)
    expected = load_file(tmp_path / "source/model.safetensors")
    unlabelled(tmp_path / "source/model.safetensors", labelled)
    result = converter.convert(tmp_path / "source", tmp_path / "out", to=["flax"])
    assert result.sources[0].key_match.dialect == "flax"
    with open_file(tmp_path / "out/flax_model.msgpack") as reader:
        assert {name.replace("/", ".") for name in reader.tensors} == expected.keys()
        for name, tensor in reader.tensors.items():
            np.testing.assert_array_equal(tensor.read(), expected[name.replace("/", ".")])


def unlabelled(path: Path, labelled: bool) -> None:
    """Remove the metadata unless the file should keep it."""
    if not labelled:
        from safetensors.numpy import save_file

        save_file(load_file(path), path)


def same_weights(path: Path, expected: dict[str, np.ndarray]) -> None:
    with open_file(path) as reader:
        assert reader.tensors.keys() == expected.keys()
        for name, tensor in reader.tensors.items():
            np.testing.assert_array_equal(tensor.read(), expected[name], err_msg=name)


def test_an_unknown_head_in_tensorflow(tmp_path: Path) -> None:
    import transformers

    model = shaken(transformers.TFBertForSequenceClassification(transformers.BertConfig(**SIZES)))
    model.save_pretrained(tmp_path / "source", safe_serialization=False)
    decoder = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2))
    decoder.save_pretrained(tmp_path / "decoder")
    tokens: dict[str, Any] = {"decoder_start_token": 1, "eos_token": 2, "pad_token": 3}
    out = tmp_path / "out"
    result = converter.compose(tmp_path / "source", tmp_path / "decoder", out, **tokens)
    assert set(result.to_dict()["ignored"]["encoder"]) == {
        "classifier/kernel:0",
        "classifier/bias:0",
    }


KERAS_3 = """
import os, sys
os.environ["KERAS_BACKEND"] = "numpy"
import keras
model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(4)])
model.save_weights(sys.argv[1])
"""


@pytest.mark.parametrize("make", ["keras", "transformers"])
def test_keras_3_weights_are_refused_with_a_remedy(make: str, tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    if make == "keras":
        subprocess.run([sys.executable, "-c", KERAS_3, path], check=True, capture_output=True)
    else:
        import transformers

        shaken(transformers.TFBertModel(transformers.BertConfig(**SIZES))).save_weights(path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **SIZES}))
    with pytest.raises(FormatError, match=r"Keras 3[\s\S]*save_pretrained"):
        converter.open_checkpoint(path)

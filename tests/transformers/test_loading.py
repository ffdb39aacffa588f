"""What `open_checkpoint` gives to the frameworks, loaded by transformers' own classes.

PyTorch with every class of every table; TensorFlow and Flax with models of every kind of module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.errors import MatchError, UsageError
from tests.docs.reading_pages import ROOT, blocks
from tests.transformers.rounding import assert_close
from tests.transformers.tiny import build, single_models, source_fields, tiny

pytestmark = pytest.mark.peer

OTHERS = [
    ("bert", "BertForPreTraining"),
    ("gpt2", "GPT2LMHeadModel"),
    ("albert", "AlbertModel"),
    ("bart", "BartForConditionalGeneration"),
    ("electra", "ElectraModel"),
    ("vit", "ViTModel"),
    ("wav2vec2", "Wav2Vec2Model"),
    ("roberta", "RobertaForMaskedLM"),
]
"""Family and PyTorch class of the models that are also handed to TensorFlow and Flax."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that saves a model with noise, once each."""
    made: dict[tuple[str, str], tuple[Path, Any]] = {}

    def make(architecture: str, name: str) -> tuple[Path, Any]:
        if (architecture, name) not in made:
            fields = source_fields(architecture, tiny(architecture).table.models[name], "")
            model = build(tiny(architecture), name, fields)
            directory = tmp_path_factory.mktemp("saved") / name
            model.save_pretrained(directory)
            made[architecture, name] = directory, model
        return made[architecture, name]

    return make


def classes() -> dict[str, list[str]]:
    """Family → its PyTorch classes."""
    actual: dict[str, list[str]] = {}
    for architecture, name, variant in single_models():
        if not variant and not tiny(architecture).transformers_4:
            actual.setdefault(architecture, []).append(name)
    return actual


@pytest.mark.parametrize("architecture", classes())
def test_pytorch_takes_the_state_dict_strictly(architecture: str, saved: Any) -> None:
    import torch
    import transformers

    for name in classes()[architecture]:
        directory, model = saved(architecture, name)
        with converter.open_checkpoint(directory) as checkpoint:
            assert checkpoint.class_name == name
            state = checkpoint.to_torch()
        again = getattr(transformers, name)(model.config)
        again.load_state_dict(state, strict=True)
        expected = model.state_dict()
        assert expected.keys() == again.state_dict().keys()
        for key, value in again.state_dict().items():
            assert value.dtype == expected[key].dtype
            assert torch.equal(value, expected[key]), f"{name}: {key}"


@pytest.mark.parametrize(("architecture", "name"), OTHERS)
def test_tensorflow_and_flax_take_theirs(
    architecture: str, name: str, saved: Any, tmp_path: Path
) -> None:
    import transformers
    from flax.traverse_util import flatten_dict

    directory, model = saved(architecture, name)
    converter.convert(directory, tmp_path / "out")
    with converter.open_checkpoint(directory) as checkpoint:
        weights = checkpoint.to_tensorflow()
        params = checkpoint.to_flax() if "flax" in checkpoint.classes else None
        keras = getattr(transformers, weights.class_name)(model.config)
        keras.build_in_name_scope()
        weights.assign_to(keras)
    reference = getattr(transformers, weights.class_name).from_pretrained(
        tmp_path / "out", use_safetensors=False
    )
    values = {variable.name.split("/", 1)[-1]: variable.numpy() for variable in keras.weights}
    for variable in reference.weights:
        key = variable.name.split("/", 1)[-1]
        assert np.array_equal(values.pop(key), variable.numpy()), key
    assert not values
    if params is None:
        return

    flax = getattr(transformers, checkpoint.classes["flax"])(model.config)
    flax.params = params  # refuses what lacks a parameter
    loaded = getattr(transformers, checkpoint.classes["flax"]).from_pretrained(tmp_path / "out")
    ours, theirs = flatten_dict(flax.params, sep="/"), flatten_dict(loaded.params, sep="/")
    required = {"/".join(key) for key in flax.required_params}
    assert ours.keys() == theirs.keys() & required
    for key, array in ours.items():
        assert array.dtype == theirs[key].dtype
        assert np.array_equal(array, theirs[key]), key


def test_a_combined_model_in_three_frameworks(saved: Any, tmp_path: Path) -> None:
    import torch
    import transformers

    encoder, decoder = saved("bert", "BertModel")[0], saved("gpt2", "GPT2LMHeadModel")[0]
    tokens: dict[str, Any] = {"decoder_start_token": 5, "eos_token": 6, "pad_token": 7}
    converter.compose(encoder, decoder, tmp_path / "both", **tokens)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "both")
    batch = {
        "input_ids": np.array([[3, 4, 5, 6], [7, 8, 9, 3]]),
        "decoder_input_ids": np.array([[5, 4, 3], [5, 8, 9]]),
    }

    def run() -> np.ndarray:
        with torch.no_grad():
            output = model(**{k: torch.from_numpy(v) for k, v in batch.items()})
        return np.asarray(output.logits)

    logits = []
    for file in ("model.safetensors", "tf_model.h5", "flax_model.msgpack"):
        with converter.open_checkpoint(tmp_path / "both" / file) as checkpoint:
            model = transformers.EncoderDecoderModel(config).eval()
            model.load_state_dict(checkpoint.to_torch(), strict=True)
            logits.append(run())
            if file != "model.safetensors":
                continue
            keras = transformers.TFEncoderDecoderModel(config)
            keras.build_in_name_scope()
            checkpoint.to_tensorflow().assign_to(keras)
            logits.append(keras(**batch).logits.numpy())
            flax = transformers.FlaxEncoderDecoderModel(config, input_shape=((1, 2), (1, 2)))
            logits.append(np.asarray(flax(**batch, params=checkpoint.to_flax()).logits))
    for other in logits[1:]:
        assert_close(other, model, run)
    assert np.array_equal(logits[0], logits[-1])
    assert np.array_equal(logits[0], logits[-2])


def test_a_keras_model_of_another_shape_is_unchanged(saved: Any) -> None:
    import transformers

    directory, model = saved("bert", "BertModel")
    config = model.config.from_dict({**model.config.to_dict(), "intermediate_size": 43})
    keras = transformers.TFBertModel(config)
    keras.build_in_name_scope()
    before = [variable.numpy() for variable in keras.weights]
    with converter.open_checkpoint(directory) as checkpoint:
        with pytest.raises(MatchError, match="none was set") as caught:
            checkpoint.to_tensorflow().assign_to(keras)
        assert "intermediate/dense/kernel:0: wrong shape; expected [48, 43]" in str(caught.value)
        with pytest.raises(UsageError, match="build_in_name_scope"):
            checkpoint.to_tensorflow().assign_to(transformers.TFBertModel(model.config))
    for variable, value in zip(keras.weights, before, strict=True):
        assert np.array_equal(variable.numpy(), value)


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    monkeypatch.chdir(tmp_path)
    examples = [code for code in blocks("python.md", "python") if "transformers" in code]
    assert len(examples) == 3
    names: dict[str, Any] = {"converter": converter}
    for code in examples:
        exec(compile(code, "docs/python.md", "exec"), names)
    with converter.open_checkpoint("fixtures/bert-tiny") as checkpoint:
        (pooler,) = [v for v in names["keras_model"].weights if "pooler/dense/bias" in v.name]
        assert np.array_equal(pooler.numpy(), checkpoint["pooler.dense.bias"])

"""Configurations as old releases of transformers wrote them, with weights that PyTorch wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import converter
from converter.errors import CheckpointError, UnsupportedError
from tests.factories import tiny_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.peer

OLD: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {}),
    "gpt2 without head": ("GPT2Model", {}),
    "roberta": ("RobertaForMaskedLM", {"type_vocab_size": 1}),
    "albert": ("AlbertForMaskedLM", {}),
    "albert without head": ("AlbertModel", {}),
    "distilbert": ("DistilBertForMaskedLM", {}),
    "distilbert without head": ("DistilBertModel", {}),
    "bert": ("BertForMaskedLM", {"type_vocab_size": 2}),
    "bert without head": ("BertModel", {"type_vocab_size": 2}),
}


def save(path: Path, case: str, *drop: str, **fields: Any) -> dict[str, np.ndarray]:
    """Save a model of `case` as ``pytorch_model.bin``; return its tensors by name."""
    name, sizes = OLD[case]
    config = tiny_config(case.partition(" ")[0], **sizes)
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    model = cls(cls.config_class(**config))
    model.save_pretrained(path, safe_serialization=False)
    saved = json.loads((path / "config.json").read_text())
    kept = {key: value for key, value in saved.items() if key not in drop}
    (path / "config.json").write_text(json.dumps({**kept, **fields}))
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def same(actual: Path, expected: dict[str, np.ndarray]) -> None:
    for name, array in load_file(actual / "model.safetensors").items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize("case", OLD)
@pytest.mark.parametrize("how", ["architectures", "fields", "set"])
def test_a_configuration_without_model_type(case: str, how: str, tmp_path: Path) -> None:
    """By the class that it states, by its fields and tensors, or by the user."""
    architecture = case.partition(" ")[0]
    drop = ["model_type", *([] if how == "architectures" else ["architectures"])]
    expected = save(tmp_path / "source", case, *drop)
    settings = [f"model_type={architecture}"] if how == "set" else []
    converter.convert(tmp_path / "source", tmp_path / "out", to=["pytorch"], set=settings)
    same(tmp_path / "out", expected)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["model_type"], config["architectures"]) == (architecture, [OLD[case][0]])


def test_below_a_prefix(tmp_path: Path) -> None:
    state = save(tmp_path / "source", "roberta", "model_type", "architectures")
    prefixed = {f"lm.{name}": torch.from_numpy(array) for name, array in state.items()}
    torch.save(prefixed, tmp_path / "source/pytorch_model.bin")
    converter.convert(tmp_path / "source", tmp_path / "out", to=["pytorch"])
    same(tmp_path / "out", state)
    assert json.loads((tmp_path / "out/config.json").read_text())["model_type"] == "roberta"


def test_both_sources_of_a_composition(tmp_path: Path) -> None:
    encoder = save(tmp_path / "encoder", "bert without head", "model_type", "architectures")
    decoder = save(tmp_path / "decoder", "gpt2", "model_type")
    converter.compose(tmp_path / "encoder", tmp_path / "decoder", tmp_path / "out")
    converter.compose(
        tmp_path / "encoder",
        tmp_path / "decoder",
        tmp_path / "again",
        set=["encoder.model_type=bert", "decoder.model_type=gpt2"],
    )
    first = load_file(tmp_path / "out/model.safetensors")
    second = load_file(tmp_path / "again/model.safetensors")
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    assert any(name in f"encoder.{own}" for own in encoder for name in first)
    for name, array in decoder.items():
        if f"decoder.{name}" in first:
            np.testing.assert_array_equal(first[f"decoder.{name}"], array)


@pytest.mark.parametrize("sizes", [{"type_vocab_size": 1}, {"type_vocab_size": "many"}])
def test_names_without_prefix_that_may_be_several_architectures(
    sizes: dict[str, Any], tmp_path: Path
) -> None:
    """RoBERTa without prefix has the names and sizes of others: the user decides."""
    save(tmp_path / "source", "bert without head", "model_type", "architectures", **sizes)
    with pytest.raises(CheckpointError, match=r'states no model_type\n.*set=\["model_type=') as e:
        converter.convert(tmp_path / "source", tmp_path / "out")
    assert e.value


# --- combined models ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def combined() -> Any:
    config = {**tiny_config("bert"), "type_vocab_size": 2}
    torch.manual_seed(0)
    return transformers.EncoderDecoderModel(
        transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
            transformers.BertConfig(**config), transformers.BertConfig(**config)
        )
    ).eval()


def saved(combined: Any, path: Path) -> dict[str, Any]:
    combined.save_pretrained(path, safe_serialization=False)
    config: dict[str, Any] = json.loads((path / "config.json").read_text())
    return config


@pytest.mark.parametrize(("alias", "case", "architecture"), [("gpt-sw3", "gpt2", "gpt2")])
def test_another_name_of_a_model_type(
    alias: str, case: str, architecture: str, tmp_path: Path
) -> None:
    state = save(tmp_path / "source", case, "model_type")
    config = json.loads((tmp_path / "source/config.json").read_text())
    (tmp_path / "source/config.json").write_text(json.dumps({**config, "model_type": alias}))
    assert (
        type(transformers.AutoConfig.from_pretrained(tmp_path / "source")).model_type
        == architecture
    )
    converter.convert(tmp_path / "source", tmp_path / "out", to=["pytorch"])
    same(tmp_path / "out", state)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["model_type"] == architecture


def test_the_old_spelling_of_a_combined_model(combined: Any, tmp_path: Path) -> None:
    config = saved(combined, tmp_path / "source")
    config["model_type"] = "encoder_decoder"
    (tmp_path / "source/config.json").write_text(json.dumps(config))
    converter.convert(tmp_path / "source", tmp_path / "out", to=["pytorch"])
    same(tmp_path / "out", {n: t.numpy() for n, t in combined.state_dict().items()})
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["model_type"] == "encoder-decoder"


def test_other_names_are_not_guessed(combined: Any, tmp_path: Path) -> None:
    config = saved(combined, tmp_path / "source")
    config["model_type"] = "encoderdecoder"
    (tmp_path / "source/config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="Did you mean encoder-decoder"):
        converter.convert(tmp_path / "source", tmp_path / "out")


def test_a_decoder_without_add_cross_attention(combined: Any, tmp_path: Path) -> None:
    """As releases before 3.1 wrote it: it is set, so that transformers loads every tensor."""
    config = saved(combined, tmp_path / "source")
    del config["decoder"]["add_cross_attention"]
    (tmp_path / "source/config.json").write_text(json.dumps(config))
    problems = converter.verify(tmp_path / "source").problems
    assert [each.tensor for each in problems if each.tensor == "decoder.add_cross_attention"]
    result = converter.convert(tmp_path / "source", tmp_path / "out", to=["pytorch"])
    assert "decoder: its configuration lacks add_cross_attention, which is set" in result.warnings
    model, loading = transformers.EncoderDecoderModel.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = combined(input_ids=ids, decoder_input_ids=ids).logits
        torch.testing.assert_close(
            model.eval()(input_ids=ids, decoder_input_ids=ids).logits, expected
        )
    assert not [
        each
        for each in converter.verify(tmp_path / "out").problems
        if each.tensor == "decoder.add_cross_attention"
    ]


# --- what a decoder leaves behind -----------------------------------------------------------------


@pytest.mark.parametrize("bias", ["trained", "zero"])
def test_a_bias_of_the_output_that_is_lost_is_a_warning(bias: str, tmp_path: Path) -> None:
    save(tmp_path / "encoder", "bert without head")
    config = transformers.MarianConfig(**tiny_config("marian"))
    model = transformers.MarianMTModel(config)
    if bias == "trained":
        model.final_logits_bias[0, -1] = 0.5
    model.save_pretrained(tmp_path / "decoder")
    result = converter.compose(tmp_path / "encoder", tmp_path / "decoder", tmp_path / "out")
    warned = [text for text in result.warnings if "final_logits_bias is not zero" in text]
    assert len(warned) == (bias == "trained")


# --- an encoder in a model of another name --------------------------------------------------------


def test_the_bert_in_a_dpr_encoder(tmp_path: Path) -> None:
    config = transformers.DPRConfig(**tiny_config("bert"), projection_dim=3)
    torch.manual_seed(0)
    model = transformers.DPRQuestionEncoder(config)
    model.save_pretrained(tmp_path / "encoder")
    save(tmp_path / "decoder", "gpt2")
    result = converter.compose(tmp_path / "encoder", tmp_path / "decoder", tmp_path / "out")
    assert result.to_dict()["prefixes"] == {"encoder": "question_encoder.bert_model."}
    actual = load_file(tmp_path / "out/model.safetensors")
    for name, tensor in model.question_encoder.bert_model.state_dict().items():
        np.testing.assert_array_equal(actual[f"encoder.{name}"], tensor.numpy())
    ignored = result.to_dict()["ignored"]["encoder"]
    assert set(ignored) == {f"question_encoder.encode_proj.{each}" for each in ("weight", "bias")}


@pytest.mark.parametrize("name", ["DPRContextEncoder", "DPRQuestionEncoder", "DPRReader"])
@pytest.mark.parametrize("projection", [0, 3])
def test_the_names_of_the_base_model_show_which_dpr_it_is(
    tmp_path: Path, name: str, projection: int
) -> None:
    config = transformers.DPRConfig(**tiny_config("bert"), projection_dim=projection)
    model = getattr(transformers, name)(config)
    model.save_pretrained(tmp_path / "source")
    fields = json.loads((tmp_path / "source/config.json").read_text())
    del fields["architectures"]
    (tmp_path / "source/config.json").write_text(json.dumps(fields))
    converter.convert(tmp_path / "source", tmp_path / "out", to=["pytorch"])
    actual = load_file(tmp_path / "out/model.safetensors")
    assert actual.keys() == model.state_dict().keys()
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] == [name]


# --- parts that a configuration asks for and a checkpoint lacks -----------------------------------


def test_an_adapter_on_request_is_newly_initialized(tmp_path: Path) -> None:
    """As the official recipe for wav2vec2 and BART does, with the same distributions."""
    sizes = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "vocab_size": 37}
    config = transformers.Wav2Vec2Config(
        **{**tiny_config("wav2vec2"), **sizes, "add_adapter": False, "hidden_size": 48},
        num_feat_extract_layers=2,
    )
    torch.manual_seed(0)
    transformers.Wav2Vec2ForCTC(config).save_pretrained(tmp_path / "encoder")
    decoder = transformers.BartForCausalLM(transformers.BartConfig(**tiny_config("bart")))
    decoder.save_pretrained(tmp_path / "decoder")
    result = converter.compose(
        tmp_path / "encoder",
        tmp_path / "decoder",
        tmp_path / "out",
        to=["pytorch"],
        set=["encoder.add_adapter=true"],
    )
    assert any("has no adapter, which is newly initialized" in text for text in result.warnings)
    model, loading = transformers.SpeechEncoderDecoderModel.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    theirs = transformers.Wav2Vec2Model(
        transformers.Wav2Vec2Config(**model.config.encoder.to_dict())
    )
    for layer, reference in zip(model.encoder.adapter.layers, theirs.adapter.layers, strict=True):
        ours, other = layer.conv.weight.std().item(), reference.conv.weight.std().item()
        assert abs(ours / other - 1) < 0.1
        bound = 1 / (config.hidden_size * 3) ** 0.5
        assert bound * 0.9 < layer.conv.bias.abs().max() <= bound

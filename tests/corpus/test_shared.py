"""Old models whose submodels share weights: one copy in the file, two in every framework."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import converter
from converter.errors import MatchError
from tests.transformers.rounding import assert_close

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.peer

SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
IDS = np.array([[5, 6, 7, 8, 9]])
START = np.array([[1, 11, 12]])


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    made = transformers.EncoderDecoderModel(
        transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
            transformers.BertConfig(**SIZES),
            transformers.BertConfig(**SIZES),
            tie_encoder_decoder=True,
        )
    ).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += torch.randn_like(parameter) * 0.1
    return made


@pytest.fixture(scope="module", params=["safetensors", "bin"])
def source(request: Any, model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / "source"
    model.save_pretrained(path, safe_serialization=request.param == "safetensors")
    return path


@pytest.fixture(scope="module")
def out(source: Path) -> Path:
    converter.convert(source, source.parent / "out", pytorch_format="both")
    return source.parent / "out"


def run(model: Any) -> np.ndarray:
    with torch.no_grad():
        output = model(input_ids=torch.tensor(IDS), decoder_input_ids=torch.tensor(START))
    return np.asarray(output.logits)


def logits(out: Path) -> Iterator[tuple[str, np.ndarray]]:
    for form in ("safetensors", "bin"):
        ours, messages = transformers.EncoderDecoderModel.from_pretrained(
            out, use_safetensors=form == "safetensors", output_loading_info=True
        )
        assert not any(messages.values()), messages
        with torch.no_grad():
            yield (
                form,
                ours.eval()(
                    input_ids=torch.tensor(IDS), decoder_input_ids=torch.tensor(START)
                ).logits.numpy(),
            )
    pytest.importorskip("tensorflow")
    tf_model = transformers.TFEncoderDecoderModel.from_pretrained(out, use_safetensors=False)
    yield "tensorflow", tf_model(input_ids=IDS, decoder_input_ids=START).logits.numpy()
    pytest.importorskip("flax")
    flax_model = transformers.FlaxEncoderDecoderModel.from_pretrained(out)
    yield "flax", np.asarray(flax_model(input_ids=IDS, decoder_input_ids=START).logits)


@pytest.mark.usefixtures("unoptimized")
def test_every_framework_computes_the_same(out: Path, model: Any) -> None:
    for _, actual in logits(out):
        assert_close(actual, model, lambda: run(model))


def test_the_source_holds_one_copy_and_the_output_two(source: Path, out: Path) -> None:
    actual = load_file(out / "model.safetensors")
    twin = {name: f"decoder.bert.{name.removeprefix('encoder.')}" for name in actual}
    pairs = {name: twin[name] for name in actual if twin[name] in actual}
    assert len(pairs) == 37
    for name, other in pairs.items():
        np.testing.assert_array_equal(actual[name], actual[other])
    if (source / "model.safetensors").is_file():
        held = load_file(source / "model.safetensors")
        assert not any(name in held and other in held for name, other in pairs.items())


def test_the_user_is_warned(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "source")
    result = converter.convert(tmp_path / "source", tmp_path / "out", to=["flax"])
    assert any("tie_encoder_decoder" in warning for warning in result.warnings)


def test_copies_that_differ_are_refused(out: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/config.json").write_bytes((out / "config.json").read_bytes())
    tensors = load_file(out / "model.safetensors")
    name = "encoder.encoder.layer.1.output.dense.bias"
    tensors[name] = tensors[name] + 1
    save_file(tensors, tmp_path / "source/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MatchError) as caught:
        converter.convert(tmp_path / "source", tmp_path / "out")
    assert name in str(caught.value)
    assert "decoder.bert.encoder.layer.1.output.dense.bias" in str(caught.value)


def test_without_the_flag_a_missing_submodel_is_an_error(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "source")
    with pytest.raises(MatchError, match=r"encoder\.embeddings"):
        converter.convert(tmp_path / "source", tmp_path / "out", set=["tie_encoder_decoder=false"])

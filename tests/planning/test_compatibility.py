"""A pair that cannot be is refused by its configurations alone, naming what would go instead."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from converter import UnsupportedError, compose
from tests.transformers.tiny import tiny

MODEL_TYPES = (
    "albert bart bert bert-generation distilbert electra gpt2 llama t5 trocr vit wav2vec2 xlnet"
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each family a configuration, beside weights that nobody can read."""
    home = tmp_path_factory.mktemp("refusal")
    for name in MODEL_TYPES.split():
        (home / name).mkdir()
        config = {**tiny(name).config, "model_type": name}
        (home / name / "config.json").write_text(json.dumps(config))
        (home / name / "model.safetensors").write_bytes(b"not what it says")
    return {name: home / name for name in MODEL_TYPES.split()}


def refused(places: dict[str, Path], encoder: str, decoder: str, to: str = "") -> str:
    out = places[encoder].parent / "out"
    with pytest.raises(UnsupportedError) as caught:
        compose(places[encoder], places[decoder], out, to=to.split(",") if to else None)  # type: ignore[arg-type]
    assert not out.exists()
    return str(caught.value)


@pytest.mark.parametrize("architecture", ["distilbert", "llama", "t5", "vit", "xlnet"])
def test_what_has_no_cross_attention_cannot_decode(
    places: dict[str, Path], architecture: str
) -> None:
    message = refused(places, "bert", architecture)
    assert f"{architecture} cannot be the decoder" in message
    assert "with cross-attention" in message
    able = message.split("What can be the decoder: ")[1].split(".")[0].split(", ")
    assert {"bert", "gpt2", "bart", "trocr"} <= {*able}
    assert not {architecture, "vit", "albert"} & {*able}


def test_what_can_be_had_in_the_framework_that_was_asked_for(places: dict[str, Path]) -> None:
    message = refused(places, "bert", "distilbert", "flax")
    able = message.split("What can be the decoder in flax: ")[1].split(".")[0].split(", ")
    assert {"bert", "gpt2", "bart"} <= {*able}
    assert not {"electra", "bert-generation", "camembert"} & {*able}


@pytest.mark.parametrize("architecture", ["bart", "t5", "trocr"])
def test_what_does_not_only_encode_cannot_encode(
    places: dict[str, Path], architecture: str
) -> None:
    message = refused(places, architecture, "bert")
    assert f"{architecture} cannot be the encoder" in message
    able = message.split("What can be the encoder: ")[1].split(".")[0].split(", ")
    assert {"bert", "vit", "wav2vec2"} <= {*able}
    assert architecture not in able


def test_encoder_and_decoder_in_reverse_order(places: dict[str, Path]) -> None:
    message = refused(places, "trocr", "vit")
    assert "trocr cannot be the encoder" in message and "vit cannot be the decoder" in message
    assert "in the reverse order" in message


@pytest.mark.parametrize(
    ("encoder", "decoder", "to", "why", "instead", "possible"),
    [
        (
            "distilbert",
            "bert",
            "flax",
            "as encoder, FlaxDistilBertModel takes no position_ids",
            {"flax has albert, ", " as encoder"},
            "--to pytorch,tensorflow.",
        ),
        (
            "bert",
            "electra",
            "pytorch,flax",
            "as decoder, TensorFlow has no causal ELECTRA, and Flax's cannot be called",
            {"flax has bart, bert, gpt2, ", " as decoder"},
            "--to pytorch.",
        ),
        (
            "bert-generation",
            "bert",
            "tensorflow",
            "there is no tensorflow class for BertGenerationEncoder",
            {"tensorflow has albert, bert, ", " as encoder"},
            "--to pytorch.",
        ),
        (
            "wav2vec2",
            "bert",
            "tensorflow",
            "there is no tensorflow class for speech-encoder-decoder",
            set(),
            "--to pytorch.",
        ),
    ],
)
def test_a_framework_that_cannot(
    places: dict[str, Path],
    encoder: str,
    decoder: str,
    to: str,
    why: str,
    instead: set[str],
    possible: str,
) -> None:
    message = refused(places, encoder, decoder, to)
    assert why in message
    assert all(text in message for text in instead)
    assert bool(re.search(r"\((flax|tensorflow) has ", message)) == bool(instead)
    assert possible in message


def test_only_images_are_named_in_place_of_images(tmp_path: Path, places: dict[str, Path]) -> None:
    config = {**tiny("swinv2").config, "model_type": "swinv2"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    message = refused({**places, "swinv2": tmp_path}, "swinv2", "bert", "flax")
    assert "flax has beit, dinov2, vit as encoder" in message


def test_a_pair_that_can_be_goes_on_to_its_weights(places: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"model\.safetensors"):
        compose(places["bert"], places["gpt2"], tmp_path / "out")

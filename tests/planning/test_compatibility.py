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


FEED_FORWARD = "it has no pre_feedforward_layernorm, post_feedforward_layernorm"
HEADS = "has self_attn.q_norm, self_attn.k_norm"


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("gemma", f"{FEED_FORWARD}."),
        ("gemma3_text", f"it {HEADS}."),
        ("llama", f"{FEED_FORWARD}."),
        ("mistral", f"{FEED_FORWARD}."),
        ("qwen2", f"{FEED_FORWARD}."),
        ("qwen3", f"{FEED_FORWARD} and {HEADS}."),
        ("bert", ""),
        ("xlnet", ""),
    ],
)
def test_what_differs_from_a_submodel_of_t5gemma_is_named(
    tmp_path: Path, name: str, difference: str
) -> None:
    for each in (name, "gemma2"):
        (tmp_path / each).mkdir()
        config = {**tiny(each).config, "model_type": each}
        (tmp_path / each / "config.json").write_text(json.dumps(config))
    pairs = [("gemma2", name), (name, "gemma2")] if name != "bert" else [(name, "gemma2")]
    for encoder, decoder in pairs:
        with pytest.raises(UnsupportedError, match="Two gemma2 become one t5gemma") as caught:
            compose(tmp_path / encoder, tmp_path / decoder, tmp_path / "out")
        text = str(caught.value)
        assert ("does not fit there" in text) == bool(difference)
        assert f"A {name} does not fit there: {difference}" in text or not difference


@pytest.mark.parametrize("architecture", ["distilbert", "llama", "t5", "vit", "xlnet"])
def test_what_has_no_cross_attention_cannot_decode(
    places: dict[str, Path], architecture: str
) -> None:
    message = refused(places, "bert", architecture)
    assert f"{architecture} cannot be the decoder" in message
    why = {"t5": "transformers has no class of its decoder alone"}
    no_cross_attention = "its class for text generation in transformers has no cross-attention"
    why |= dict.fromkeys(("llama", "xlnet"), no_cross_attention)
    assert why.get(architecture, "a decoder alone, with cross-attention") in message
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
            'to=["pytorch", "tensorflow"].',
        ),
        (
            "bert",
            "electra",
            "pytorch,flax",
            "as decoder, TensorFlow has no causal ELECTRA, and Flax's cannot be called",
            {"flax has bart, bert, gpt2, ", " as decoder"},
            'to=["pytorch"].',
        ),
        (
            "bert-generation",
            "bert",
            "tensorflow",
            "there is no tensorflow class for BertGenerationEncoder",
            {"tensorflow has albert, bert, ", " as encoder"},
            'to=["pytorch"].',
        ),
        (
            "wav2vec2",
            "bert",
            "tensorflow",
            "there is no tensorflow class for speech-encoder-decoder",
            set(),
            'to=["pytorch"].',
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


def with_config(home: Path, **config: object) -> Path:
    """Return a directory with a configuration alone."""
    home.mkdir()
    (home / "config.json").write_text(json.dumps(config))
    return home


@pytest.mark.parametrize(
    ("model_type", "submodel", "why"),
    [
        (
            "falcon",
            "decoder",
            "its class for text generation in transformers has no cross-attention",
        ),
        ("m2m_100", "decoder", "transformers has no class of its decoder alone"),
        ("m2m_100", "encoder", "AutoModel loads it as a complete encoder-decoder model"),
        ("levit", "encoder", "its configuration states no hidden_size"),
    ],
)
def test_a_model_type_without_a_table(
    places: dict[str, Path], tmp_path: Path, model_type: str, submodel: str, why: str
) -> None:
    pair = {"encoder": "bert", "decoder": "gpt2", submodel: model_type}
    unknown = with_config(tmp_path / model_type, model_type=model_type)
    message = refused({**places, model_type: unknown}, *pair.values())
    assert f"{model_type} cannot be the {submodel} of an encoder-decoder model: {why}" in message
    assert "mapping table" not in message
    assert f"What can be the {submodel}: " in message


@pytest.mark.parametrize(
    ("model_type", "hint"),
    [
        ("new", "gte has replaced it"),
        ("xlm-roberta-flash", "jina_embeddings_v3 has replaced it"),
        ("bart2", "Did you mean bart? "),
        ("timesformer", ""),
    ],
)
def test_one_hint_for_an_unknown_model_type(
    places: dict[str, Path], tmp_path: Path, model_type: str, hint: str
) -> None:
    unknown = with_config(tmp_path / "unknown", model_type=model_type)
    message = refused({**places, "unknown": unknown}, "unknown", "bert")
    assert f"there is no mapping table for model_type {model_type!r}" in message
    assert hint in message and message.count("Did you mean") == hint.count("Did you mean")
    assert "albert" not in message


@pytest.mark.parametrize(
    ("encoder", "decoder", "why"),
    [
        (
            "fnet",
            "bert",
            "fnet as encoder: EncoderDecoderModel of transformers 4 passes attention_mask",
        ),
        (
            "mra",
            "bert",
            "mra as encoder: EncoderDecoderModel of transformers 4 passes output_attentions",
        ),
        ("vit", "prophetnet", "prophetnet as decoder: VisionEncoderDecoderModel of transformers 4"),
        (
            "vit",
            "mega",
            "mega as decoder: VisionEncoderDecoderModel of transformers 4 passes cache_",
        ),
    ],
)
def test_a_pair_that_loads_but_does_not_run(
    places: dict[str, Path], tmp_path: Path, encoder: str, decoder: str, why: str
) -> None:
    configs = {
        name: with_config(tmp_path / name, model_type=name, **tiny(name).config)
        for name in (encoder, decoder)
    }
    message = refused(configs, encoder, decoder)
    assert f"this pair loads but does not run: {why}" in message
    assert "force=True" in message
    forced = compose(
        configs[encoder],
        configs[decoder],
        tmp_path / "out",
        random=["both"],
        decoder_start_token=1,
        eos_token=2,
        pad_token=3,
        force=True,
        dry_run=True,
    )
    assert [warning for warning in forced.warnings if warning.startswith(why)]


@pytest.mark.parametrize("name", ["ernie_m", "mega", "nezha"])
def test_a_model_that_transformers_5_no_longer_has(tmp_path: Path, name: str) -> None:
    encoder = with_config(tmp_path / name, model_type=name, **tiny(name).config)
    decoder = with_config(tmp_path / "gpt2", model_type="gpt2", **tiny("gpt2").config)
    planned = compose(
        encoder, decoder, tmp_path / "out", random=["both"], pad_token=3, dry_run=True
    )
    assert f"{name}: transformers 5 no longer has this model" in planned.warnings


def test_only_images_are_named_in_place_of_images(tmp_path: Path, places: dict[str, Path]) -> None:
    config = {**tiny("swinv2").config, "model_type": "swinv2"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    message = refused({**places, "swinv2": tmp_path}, "swinv2", "bert", "flax")
    assert "flax has beit, dinov2, vit as encoder" in message


def test_a_pair_that_can_be_goes_on_to_its_weights(places: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"model\.safetensors"):
        compose(places["bert"], places["gpt2"], tmp_path / "out")


def test_what_is_counted_does_not_need_training(tmp_path: Path) -> None:
    encoder = with_config(tmp_path / "mra", model_type="mra", **tiny("mra").config)
    decoder = with_config(tmp_path / "gpt2", model_type="gpt2", **tiny("gpt2").config)
    result = compose(encoder, decoder, tmp_path / "out", random=["both"], pad_token=3, force=True)
    needs = {tensor.spec.name: tensor.needs_training for tensor in result.plan.tensors}
    assert needs["encoder.embeddings.word_embeddings.weight"]
    assert needs["encoder.embeddings.position_ids"] is False
    card = (tmp_path / "out/README.md").read_text()
    assert "encoder.embeddings.word_embeddings.weight" in card
    assert "position_ids" not in card.partition("## Load it")[0]

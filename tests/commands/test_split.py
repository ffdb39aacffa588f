"""Combined checkpoints, split and composed again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from converter import UnsupportedError, compose, convert, inspect, split
from tests.factories import make

FILES = ("model.safetensors", "tf_model.h5", "flax_model.msgpack")


def _composed(home: Path, encoder: str, decoder: str, model: str, **changes: Any) -> Path:
    # TensorFlow counts RoBERTa's positions from this id alone
    make(home / "encoder", encoder, bos_token_id=3, pad_token_id=1)
    make(home / "decoder", decoder, model, seed=1, **changes)
    compose(home / "encoder", home / "decoder", home / "out", seed=7)
    return home / "out"


@pytest.fixture(params=["projected", "equal"])
def combined(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "projected":
        return _composed(tmp_path, "bert", "gpt2", "GPT2LMHeadModel")
    return _composed(tmp_path, "roberta", "bert", "BertLMHeadModel")


def test_compose_of_the_submodels_restores_the_source(combined: Path, tmp_path: Path) -> None:
    submodels = tmp_path / "split"
    split(combined, submodels)
    compose(submodels / "encoder", submodels / "decoder", tmp_path / "again", seed=99)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (combined / name).read_bytes(), name
    old, new = (json.loads((d / "config.json").read_text()) for d in (combined, tmp_path / "again"))
    for field in ("decoder_start_token_id", "eos_token_id", "pad_token_id"):
        assert old[field] == new[field]


IMAGES = {"image_size": 8, "patch_size": 4, "num_channels": 3, "hidden_size": 24}
SOUND = {
    "conv_dim": [8, 8],
    "conv_kernel": [3, 3],
    "conv_stride": [2, 2],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
BART = {"d_model": 36, "decoder_layers": 2, "decoder_ffn_dim": 40, "decoder_attention_heads": 4}
UNTIED = {"tie_word_embeddings": False}
KINDS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...], dict[str, Any], int]] = {
    "untied": (("bert", None, {}), ("gpt2", "GPT2LMHeadModel", UNTIED), {}, 2),
    "untied, equal": (("bert", None, {}), ("bert", "BertLMHeadModel", UNTIED), {}, 2),
    "layers": (
        ("bert", None, {"num_hidden_layers": 4}),
        ("gpt2", "GPT2LMHeadModel", {"n_layer": 4}),
        {"layers": ["decoder=3,1", "encoder=even:2"]},
        3,
    ),
    "float16": (("bert", None, {}), ("gpt2", "GPT2LMHeadModel", {}), {"dtype": "float16"}, 3),
    "image": (("vit", None, IMAGES), ("gpt2", "GPT2LMHeadModel", {}), {}, 3),
    "image, equal": (("vit", None, IMAGES), ("bert", "BertLMHeadModel", {}), {}, 3),
    "sound": (("wav2vec2", None, SOUND), ("gpt2", "GPT2LMHeadModel", {}), {}, 1),
    "own cross-attention": (("bert", None, {}), ("bart", "BartForCausalLM", BART), {}, 2),
}
"""Encoder, decoder, options, and for how many frameworks there is a file."""


@pytest.mark.parametrize("kind", KINDS)
def test_any_composition_is_restored(tmp_path: Path, kind: str) -> None:
    encoder, decoder, options, frameworks = KINDS[kind]
    for submodel, (architecture, model, changes) in (("encoder", encoder), ("decoder", decoder)):
        make(tmp_path / submodel, architecture, model, seed=len(submodel), **changes)
    out, submodels, again = (tmp_path / name for name in ("out", "split", "again"))
    compose(tmp_path / "encoder", tmp_path / "decoder", out, seed=7, **options)
    split(out, submodels)
    compose(submodels / "encoder", submodels / "decoder", again, seed=99)
    written = [name for name in FILES if (out / name).exists()]
    assert len(written) == frameworks
    for name in (*written, "config.json", "generation_config.json"):
        assert (again / name).read_bytes() == (out / name).read_bytes(), name


def test_shared_submodels_are_restored_with_a_warning(tmp_path: Path) -> None:
    make(tmp_path / "bert", "bert", "BertForMaskedLM")
    out, submodels, again = (tmp_path / name for name in ("out", "split", "again"))
    compose(tmp_path / "bert", tmp_path / "bert", out, share=True)
    split(out, submodels)
    text = compose(submodels / "encoder", submodels / "decoder", again).warnings
    assert any('set=["tie_encoder_decoder=true"]' in warning for warning in text)
    tied = ["tie_encoder_decoder=true"]
    compose(submodels / "encoder", submodels / "decoder", again, set=tied, overwrite=True)
    for name in (*FILES, "config.json", "generation_config.json"):
        assert (again / name).read_bytes() == (out / name).read_bytes(), name


@pytest.mark.parametrize("name", FILES)
def test_every_format_is_split_alike(combined: Path, tmp_path: Path, name: str) -> None:
    split(combined / name, tmp_path / "one", to=["pytorch"])
    split(combined, tmp_path / "two", to=["pytorch"])
    for submodel in ("encoder", "decoder"):
        one = load_file(tmp_path / "one" / submodel / "model.safetensors")
        two = load_file(tmp_path / "two" / submodel / "model.safetensors")
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[key], two[key]) for key in one)


def test_submodels_are_complete_checkpoints_with_the_right_values(tmp_path: Path) -> None:
    combined = _composed(tmp_path, "bert", "gpt2", "GPT2LMHeadModel")
    split(combined, tmp_path / "split")
    encoder, decoder = (
        inspect(tmp_path / "split" / submodel) for submodel in ("encoder", "decoder")
    )
    assert encoder.fits and encoder.model and encoder.model.name == "BertModel"
    assert decoder.fits and decoder.model and decoder.model.name == "GPT2LMHeadModel"
    complete = load_file(combined / "model.safetensors")
    parts = {
        **{
            f"encoder.{name}": value
            for name, value in load_file(tmp_path / "split/encoder/model.safetensors").items()
        },
        **{
            f"decoder.{name}": value
            for name, value in load_file(tmp_path / "split/decoder/model.safetensors").items()
        },
        **load_file(tmp_path / "split/joint.safetensors"),
    }
    assert parts.keys() == complete.keys()
    assert all(np.array_equal(parts[name], complete[name]) for name in complete)
    config = json.loads((tmp_path / "split/decoder/config.json").read_text())
    assert config["add_cross_attention"] and config["is_decoder"]


def test_a_projection_of_other_submodels_is_not_used(tmp_path: Path) -> None:
    combined = _composed(tmp_path, "bert", "gpt2", "GPT2LMHeadModel")
    split(combined, tmp_path / "split")
    make(tmp_path / "other", "bert")
    result = compose(tmp_path / "other", tmp_path / "split/decoder", tmp_path / "again")
    assert "enc_to_dec_proj.weight" in result.to_dict()["initialized"]
    assert not any("split" in warning for warning in result.warnings)


def test_a_missing_joint_file_is_reported(tmp_path: Path) -> None:
    combined = _composed(tmp_path, "bert", "gpt2", "GPT2LMHeadModel")
    split(combined, tmp_path / "split")
    parts = (tmp_path / "split/encoder", tmp_path / "split/decoder")
    (tmp_path / "split/joint.safetensors").unlink()
    result = compose(*parts, tmp_path / "again")
    assert "enc_to_dec_proj.weight" in result.to_dict()["initialized"]
    assert any("joint.safetensors is missing next to" in each for each in result.warnings)


def test_what_is_not_combined_cannot_be_split(tmp_path: Path) -> None:
    make(tmp_path / "encoder", "bert")
    with pytest.raises(UnsupportedError, match="not a combined model"):
        split(tmp_path / "encoder", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_compose_refuses_a_combined_checkpoint_and_names_the_way_out(tmp_path: Path) -> None:
    combined = _composed(tmp_path, "bert", "gpt2", "GPT2LMHeadModel")
    with pytest.raises(UnsupportedError, match=r"converter\.split\(\)"):
        compose(combined, tmp_path / "decoder", tmp_path / "again")


def test_shards_and_dtype_apply_to_both_submodels(tmp_path: Path) -> None:
    combined = _composed(tmp_path, "bert", "gpt2", "GPT2LMHeadModel")
    split(combined, tmp_path / "split", to=["pytorch"], dtype="float16", max_shard_size="40kB")
    convert(tmp_path / "split/decoder", tmp_path / "converted", to=["pytorch"])
    complete = load_file(combined / "model.safetensors")
    for name, value in load_file(tmp_path / "converted/model.safetensors").items():
        assert np.array_equal(value, complete[f"decoder.{name}"].astype("float16"))
    config = json.loads((tmp_path / "split/encoder/config.json").read_text())
    assert config["dtype"] == "float16"


def test_a_decoder_that_counts_from_its_pad_token_keeps_its_own(tmp_path: Path) -> None:
    """RoBERTa's positions begin after ``pad_token_id``; generation has an id of its own."""
    make(tmp_path / "bert", "bert")
    made = make(tmp_path / "roberta", "roberta", "RobertaForCausalLM", vocab_size=61)
    config = json.loads((made.directory / "config.json").read_text())
    del config["pad_token_id"]
    (made.directory / "config.json").write_text(json.dumps(config))
    compose(tmp_path / "bert", tmp_path / "roberta", tmp_path / "out", pad_token=7)
    split(tmp_path / "out", tmp_path / "split")
    submodel = tmp_path / "split/decoder"
    assert "pad_token_id" not in json.loads((submodel / "config.json").read_text())
    assert json.loads((submodel / "generation_config.json").read_text())["pad_token_id"] == 7
    compose(tmp_path / "split/encoder", submodel, tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["pad_token_id"] == 7

"""Vision-text dual encoders: transformers' own files converted, split and verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.errors import ConfigError
from tests.transformers import oracle_checks
from tests.transformers.tiny import FULL, LIBRARY, add_noise, tiny

pytestmark = pytest.mark.peer

CLASS = "VisionTextDualEncoderModel"
PAIRS = [("vit", "bert"), ("clip_vision_model", "roberta")]


def saved(pair: tuple[str, str], directory: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """Save a PyTorch model with noise; return it and inputs."""
    import transformers

    configs = [
        transformers.AutoConfig.for_model(name, **tiny(name).fields()).to_dict() for name in pair
    ]
    config = transformers.VisionTextDualEncoderConfig(
        vision_config=configs[0], text_config=configs[1], projection_dim=28
    )
    model = getattr(transformers, CLASS)(config).eval()
    add_noise(model, seed=3, keep=("logit_scale",))  # TensorFlow's class does not load it
    model.save_pretrained(directory)
    batch: dict[str, np.ndarray] = {}
    for name in pair:
        batch |= tiny(name).batch("pytorch")
    return model, batch


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_both_encoders_and_their_projections_survive_every_framework(
    tmp_path: Path, pair: tuple[str, str]
) -> None:
    model, batch = saved(pair, tmp_path / "own")
    result = converter.convert(tmp_path / "own", tmp_path / "all")
    assert any("logit_scale" in warning for warning in result.warnings)
    expected = oracle_checks.load(tmp_path / "own", "safetensors", CLASS, batch, ())
    for kind, prefix in (("safetensors", ""), ("h5", "TF"), ("msgpack", "Flax")):
        own = {**batch, **tiny(pair[1]).batch({"TF": "tensorflow", "Flax": "flax"}.get(prefix, ""))}
        loaded = oracle_checks.load(tmp_path / "all", kind, prefix + CLASS, own, ())
        assert not loaded.problems, loaded.problems
        assert not oracle_checks.oracle.compare(expected, loaded, 1e-5)
    native = model.state_dict()
    converter.convert(tmp_path / "all" / "tf_model.h5", tmp_path / "back", to=["pytorch"])
    again = converter.open_checkpoint(tmp_path / "back")
    assert {name: np.asarray(again[name]).shape for name in again} == {
        name: tuple(value.shape) for name, value in native.items()
    }
    assert all(np.array_equal(np.asarray(again[name]), native[name].numpy()) for name in native)


@pytest.mark.parametrize("pair", [("vit", "bert"), ("clip", "roberta")], ids="-".join)
def test_what_compose_makes_is_what_transformers_makes_of_the_two(
    tmp_path: Path, pair: tuple[str, str]
) -> None:
    """``from_vision_text_pretrained`` takes the image side of a complete CLIP as well."""
    import transformers

    for name in pair:
        model = transformers.AutoModel.from_config(tiny(name).transformers_config())
        add_noise(model, seed=2)
        model.save_pretrained(tmp_path / name)
    own, *settings = [tmp_path / "own", "projection_dim=28"]
    sources = tmp_path / pair[0], tmp_path / pair[1]
    converter.compose(*sources, own, model_type="vision-text-dual-encoder", set=settings)
    theirs = getattr(transformers, CLASS).from_vision_text_pretrained(
        str(sources[0]), str(sources[1]), projection_dim=28
    )
    ours, info = getattr(transformers, CLASS).from_pretrained(own, output_loading_info=True)
    assert not any(info.values()), info
    native, values = theirs.state_dict(), ours.state_dict()
    new = {"visual_projection.weight", "text_projection.weight"}
    assert native.keys() == values.keys()
    assert all(values[name].equal(native[name]) for name in native.keys() - new)
    batch: dict[str, np.ndarray] = {}
    for name in pair:
        batch |= tiny(name).batch("pytorch")
    expected = oracle_checks.load(own, "safetensors", CLASS, batch, ())
    for kind, prefix in (("h5", "TF"), ("msgpack", "Flax")) if pair[0] == "vit" else ():
        inputs = {**batch, **tiny(pair[1]).batch({"TF": "tensorflow", "Flax": "flax"}[prefix])}
        loaded = oracle_checks.load(own, kind, prefix + CLASS, inputs, ())
        assert not loaded.problems, loaded.problems
        assert not oracle_checks.oracle.compare(expected, loaded, 1e-5)


ACCEPTED = [
    (submodel, name)
    for submodel, names in LIBRARY.composite("vision-text-dual-encoder").accepts.items()
    for name in names
    if FULL or name in ("beit", "swin", "albert", "squeezebert")
]


@pytest.mark.parametrize(("submodel", "name"), ACCEPTED, ids=lambda value: str(value))
def test_an_architecture_that_is_accepted_can_be_called(submodel: str, name: str) -> None:
    import torch
    import transformers

    pair = {"vision_model": "vit", "text_model": "bert", submodel: name}.values()
    vision, text = (tiny(each).transformers_config().to_dict() for each in pair)
    config = transformers.VisionTextDualEncoderConfig(vision_config=vision, text_config=text)
    batch: dict[str, np.ndarray] = {}
    for each in pair:
        batch |= tiny(each).batch("pytorch")
    inputs = {key: torch.as_tensor(value) for key, value in batch.items()}
    outputs = getattr(transformers, CLASS)(config).eval()(**inputs)
    assert tuple(outputs.logits_per_text.shape) == (2, 2)


def test_split_writes_each_encoder_as_its_own_class_loads_it(tmp_path: Path) -> None:
    import transformers

    model, _ = saved(PAIRS[0], tmp_path / "own")
    converter.split(tmp_path / "own", tmp_path / "parts", to=["pytorch"])
    for submodel, name in (("vision_model", "ViTModel"), ("text_model", "BertModel")):
        part, info = getattr(transformers, name).from_pretrained(
            tmp_path / "parts" / submodel, output_loading_info=True
        )
        assert not any(info.values()), info
        native = getattr(model, submodel).state_dict()
        assert all(value.equal(native[key]) for key, value in part.state_dict().items())
        assert converter.diff(tmp_path / "own", tmp_path / "parts" / submodel).equal


def test_verify_finds_damage_in_a_part_and_next_to_both(tmp_path: Path) -> None:
    saved(PAIRS[0], tmp_path / "own")
    converter.split(tmp_path / "own", tmp_path / "parts", to=["pytorch"])
    result = converter.verify(tmp_path / "parts", against=[tmp_path / "own"])
    assert result.verified, result.problems
    assert converter.verify(tmp_path / "parts" / "text_model").verified
    for file in ("text_model/model.safetensors", "joint.safetensors"):
        path = tmp_path / "parts" / file
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert not converter.verify(tmp_path / "parts").verified
        path.write_bytes(content)


def test_fields_of_an_encoder_can_be_set(tmp_path: Path) -> None:
    import json

    import transformers

    saved(PAIRS[0], tmp_path / "own")
    settings = ["text_model.layer_norm_eps=0.5", "vision_model.qkv_bias=null"]
    converter.convert(tmp_path / "own", tmp_path / "out", to=["pytorch"], set=settings)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["text_config"]["layer_norm_eps"] == 0.5
    assert "qkv_bias" not in config["vision_config"]

    fields = tiny("clip").fields()
    model = transformers.CLIPModel(transformers.CLIPConfig(**fields))
    model.save_pretrained(tmp_path / "clip")
    set_field = ["text_config.hidden_act=relu"]
    converter.convert(tmp_path / "clip", tmp_path / "set", to=["pytorch"], set=set_field)
    config = json.loads((tmp_path / "set" / "config.json").read_text())
    assert config["text_config"]["hidden_act"] == "relu"
    assert config["text_config"]["vocab_size"] == 97


def test_an_encoder_without_a_configuration_is_named(tmp_path: Path) -> None:
    saved(PAIRS[0], tmp_path / "own")
    with pytest.raises(ConfigError, match="text_config"):
        converter.convert(tmp_path / "own", tmp_path / "out", set=["text_config=null"])
    with pytest.raises(ConfigError, match="not a length"):
        converter.convert(tmp_path / "own", tmp_path / "out", set=["projection_dim=-3"])

"""Two encoders become a vision-text dual encoder if that is asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import converter
from converter.errors import UnsupportedError, UsageError
from tests.factories import Made, bundled_registry, make

DUAL = "vision-text-dual-encoder"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    home = tmp_path_factory.mktemp("dual")
    others = {name: make(home / name, name) for name in ("vit", "distilbert", "vit_msn")}
    return {**others, "bert": make(home / "bert", "bert", hidden_size=12, intermediate_size=20)}


def test_both_encoders_are_copied_and_what_compares_them_is_new(
    made: dict[str, Made], tmp_path: Path
) -> None:
    sources = made["vit"].directory, made["bert"].directory
    settings = ["projection_dim=7", "text_model.hidden_act=relu"]
    result = converter.compose(*sources, tmp_path / "out", model_type=DUAL, set=settings)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["model_type"], config["projection_dim"]) == (DUAL, 7)
    assert config["text_config"]["hidden_act"] == "relu"
    assert config["vision_config"]["model_type"] == "vit"
    assert not (tmp_path / "out/generation_config.json").exists()
    tensors = load_file(tmp_path / "out/model.safetensors")
    copied = {
        **{f"vision_model.{name}": each for name, each in load_file(made["vit"].file).items()},
        **{f"text_model.{name}": each for name, each in load_file(made["bert"].file).items()},
    }
    new = tensors.keys() - copied.keys()
    assert new == {"visual_projection.weight", "text_projection.weight", "logit_scale"}
    assert all(np.array_equal(tensors[name], copied[name]) for name in copied)
    assert tensors["visual_projection.weight"].shape == (7, made["vit"].config["hidden_size"])
    assert tensors["text_projection.weight"].shape == (7, 12)
    assert np.isclose(tensors["logit_scale"], 2.6592)
    assert any("logit_scale" in warning for warning in result.warnings)
    assert {file.framework for file in result.plan.files} == {"pytorch", "tensorflow", "flax"}
    verification = converter.verify(tmp_path / "out", against=sources)
    assert verification.verified and verification.checks["initialized tensors"] == "3"
    card = (tmp_path / "out/README.md").read_text()
    assert "cross-attention" not in card and "encoder-decoder" not in card
    assert f"--model-type {DUAL}" in card


def test_compose_of_both_parts_restores_what_was_split(
    made: dict[str, Made], tmp_path: Path
) -> None:
    sources = made["vit"].directory, made["bert"].directory
    converter.compose(*sources, tmp_path / "out", model_type=DUAL, seed=5, to=["pytorch"])
    converter.split(tmp_path / "out", tmp_path / "parts", to=["pytorch"])
    parts = tmp_path / "parts/vision_model", tmp_path / "parts/text_model"
    result = converter.compose(*parts, tmp_path / "again", model_type=DUAL, to=["pytorch"])
    assert any("joint.safetensors" in warning for warning in result.warnings)
    first, second = (tmp_path / name / "model.safetensors" for name in ("out", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_options_of_submodels_name_them(made: dict[str, Made], tmp_path: Path) -> None:
    sources = made["vit"].directory, made["bert"].directory
    options = {"layers": ["text_model=0"], "ignore": ["text_model=pooler.*"]}
    converter.compose(*sources, tmp_path / "out", model_type=DUAL, to=["pytorch"], **options)  # type: ignore[arg-type]
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["text_config"]["num_hidden_layers"] == 1
    tensors = json.loads((tmp_path / "out/converter-manifest.json").read_text())["tensors"]
    assert tensors["text_model.pooler.dense.weight"]["origin"] == "initialized"
    with pytest.raises(UsageError, match="text_model=0,2,4"):
        converter.compose(*sources, tmp_path / "no", model_type=DUAL, layers=["decoder=0"])


@pytest.mark.parametrize(
    ("pair", "pattern"),
    [
        (("bert", "vit"), "bert cannot be the vision_model.*It can be the text_model: are"),
        (("vit", "distilbert"), "distilbert cannot be the text_model.*mpnet"),
        (("vit_msn", "bert"), "vit_msn cannot be the vision_model"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_a_pair_that_the_class_cannot_call_is_refused(
    made: dict[str, Made], tmp_path: Path, pair: tuple[str, str], pattern: str
) -> None:
    sources = made[pair[0]].directory, made[pair[1]].directory
    with pytest.raises(UnsupportedError) as caught:
        converter.compose(*sources, tmp_path / "out", model_type=DUAL)
    assert re.search(pattern, str(caught.value), re.DOTALL), caught.value
    result = converter.compose(*sources, tmp_path / "out", model_type=DUAL, force=True)
    assert any("does not run" in warning for warning in result.warnings)


def test_options_for_decoders_are_refused(made: dict[str, Made], tmp_path: Path) -> None:
    sources = made["vit"].directory, made["bert"].directory
    for options in ({"share": True}, {"random": ["encoder"]}, {"eos_token": 0}, {"init": "xavier"}):
        with pytest.raises(UsageError, match="has no decoder"):
            converter.compose(*sources, tmp_path / "out", model_type=DUAL, **options)
    with pytest.raises(UsageError, match=f"One of: {DUAL}"):
        converter.compose(*sources, tmp_path / "out", model_type="encoder-decoder")


def test_the_refusal_of_a_pair_without_a_decoder_names_the_option(
    made: dict[str, Made], tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=rf'model_type="{DUAL}"'):
        converter.compose(made["vit"].directory, make(tmp_path / "m", "mpnet").directory, "out")


def test_every_architecture_that_is_listed_has_a_class_that_encodes() -> None:
    registry = bundled_registry()
    composite = registry.composite(DUAL)
    kinds = {"vision_model": "vision-encoder-decoder", "text_model": "encoder-decoder"}
    for submodel, names in composite.accepts.items():
        for name in names:
            assert registry.architecture(name).roles["encoder"].composite == kinds[submodel]

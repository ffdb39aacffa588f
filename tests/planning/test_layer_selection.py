"""Some layers of a half instead of all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converter import UnsupportedError, UsageError, compose
from converter.planning.composition import parse_layers
from converter.planning.layers_and_embeddings import selected_layers
from tests.factories import make
from tests.reading import FILES, config_of, values


@pytest.mark.parametrize(
    ("which", "count", "numbers"),
    [
        ("0,2,4", 6, [0, 2, 4]),
        ("5,0", 6, [5, 0]),
        ("first:3", 12, [0, 1, 2]),
        ("last:3", 12, [9, 10, 11]),
        ("even:6", 12, [0, 2, 4, 7, 9, 11]),
        ("even:2", 5, [0, 4]),
        ("even:1", 5, [0]),
        ("even:5", 5, [0, 1, 2, 3, 4]),
    ],
)
def test_which_layers_are_meant(which: str, count: int, numbers: list[int]) -> None:
    assert selected_layers(which, count) == numbers


@pytest.mark.parametrize(
    ("which", "text"),
    [
        ("0,6,7", "no layer 6, 7"),
        ("1,1", "twice"),
        ("first:7", "has 6 layers"),
        ("even:0", "has 6 layers"),
    ],
)
def test_layers_that_are_not_there_are_refused(which: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        selected_layers(which, 6)


@pytest.mark.parametrize(
    "option", ["decoder", "decoder=", "middle=1", "decoder=some:3", "decoder=1,", "decoder=-1"]
)
def test_a_malformed_selection_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match="does not select layers"):
        parse_layers([option])
    with pytest.raises(UsageError, match="twice"):
        parse_layers(["encoder=1", "encoder=2"])


def test_layers_move_to_their_new_places_and_the_others_are_left(tmp_path: Path) -> None:
    make(tmp_path / "encoder", "bert", num_hidden_layers=5)
    make(tmp_path / "decoder", "gpt2", "GPT2LMHeadModel", seed=1, n_layer=4)
    out = tmp_path / "out"
    result = compose(
        *(tmp_path / "encoder", tmp_path / "decoder", out), layers=["encoder=4,1", "decoder=last:2"]
    )
    config = config_of(out)
    assert config["encoder"]["num_hidden_layers"] == config["decoder"]["n_layer"] == 2
    encoder, decoder = (values(tmp_path / submodel) for submodel in ("encoder", "decoder"))
    for file in FILES:
        complete = values(out / file)
        assert not any("layer.2" in name or "h.2" in name for name in complete)
        for new, old in ((0, 4), (1, 1)):
            own = {n for n in encoder if n.startswith(f"encoder.layer.{old}.")}
            assert len(own) == 16
            for name in own:
                moved = "encoder." + name.replace(f"layer.{old}.", f"layer.{new}.")
                assert np.array_equal(complete[moved], encoder[name])
        for new, old in ((0, 2), (1, 3)):
            name = "h.{}.mlp.c_fc.weight"
            assert np.array_equal(
                complete["decoder." + name.format(new)], decoder[name.format(old)]
            )
        assert np.array_equal(complete["decoder.wte.weight"], decoder["wte.weight"])
    ignored = result.to_dict()["ignored"]
    assert set(ignored["encoder"].values()) == {"its layer is not selected by --layers"}
    assert len(ignored["encoder"]) == 3 * 16
    initialized = result.to_dict()["initialized"]
    assert all("cross" in name or "enc_to_dec" in name for name in initialized)


def test_kept_cross_attention_moves_along(tmp_path: Path) -> None:
    make(tmp_path / "encoder", "bert")
    make(tmp_path / "decoder", "bert", "BertLMHeadModel", seed=1, cross_attention=True)
    compose(tmp_path / "encoder", tmp_path / "decoder", tmp_path / "out", layers=["decoder=2"])
    name = "encoder.layer.{}.crossattention.self.key.weight"
    complete, source = values(tmp_path / "out"), values(tmp_path / "decoder")
    assert np.array_equal(complete["decoder." + name.format(0)], source[name.format(2)])


def test_shared_submodels_have_the_same_layers(tmp_path: Path) -> None:
    source = make(tmp_path / "bert", "bert", "BertForMaskedLM").directory
    with pytest.raises(UsageError, match="same layers"):
        compose(source, source, tmp_path / "out", share=True, layers=["decoder=0"])
    compose(source, source, tmp_path / "out", share=True, layers=["decoder=1", "encoder=1"])
    assert config_of(tmp_path / "out")["encoder"]["num_hidden_layers"] == 1


def test_layers_that_no_field_counts_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "albert", "albert", num_hidden_groups=1, inner_group_num=1)
    make(tmp_path / "decoder", "gpt2", "GPT2LMHeadModel")
    with pytest.raises(UnsupportedError, match="layers of albert cannot be selected"):
        compose(
            *(tmp_path / "albert", tmp_path / "decoder", tmp_path / "out"), layers=["encoder=0"]
        )

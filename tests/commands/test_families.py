"""`families`: the supported architectures, composites and presets, as values."""

from __future__ import annotations

from typing import get_args

import pytest

from converter import UnsupportedError, UsageError, families
from converter.architectures.registry import ArchitectureRegistry
from converter.options import Framework, Submodel
from converter.text import natural_key


def test_without_a_name_everything_is_listed() -> None:
    result = families()
    assert {*result.architectures, *result.composites} == set(ArchitectureRegistry().names)
    assert "bert2bert" in result.presets
    assert list(result.to_dict()) == ["architectures", "composites", "presets"]


def test_an_architecture_is_described_in_full() -> None:
    result = families("gpt2")
    assert set(result.architectures) == {"gpt2"}
    assert not result.composites
    assert "rows" not in result.architectures["gpt2"]
    document = result.to_dict()
    assert document["model_type"] == "gpt2"
    assert document["models"]["GPT2LMHeadModel"]["classes"]["tensorflow"] == "TFGPT2LMHeadModel"


@pytest.mark.parametrize("name", ["gpt2", "encoder-decoder"])
def test_rows_are_optional(name: str) -> None:
    with_rows = families(name, rows=True).to_dict()
    assert with_rows.pop("rows")[0]["dialects"]["pytorch"]["axes"]
    assert with_rows == families(name).to_dict()


def test_a_composite_is_named_as_one() -> None:
    document = families("encoder-decoder").to_dict()
    assert document["composite"] == "encoder-decoder"
    assert document["submodels"] == ["encoder", "decoder"]


def test_unsupported_names_and_rows_without_a_name_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="nope"):
        families("nope")
    with pytest.raises(UsageError, match="requires NAME"):
        families(rows=True)


@pytest.mark.parametrize("role", get_args(Submodel))
@pytest.mark.parametrize("framework", get_args(Framework))
def test_a_filtered_list_is_the_part_that_fits(role: Submodel, framework: Framework) -> None:
    everything, listed = families(), families(role=role, framework=framework)
    assert dict(listed.architectures) == {
        name: entry
        for name, entry in everything.architectures.items()
        if framework in entry["roles"].get(role, {}).get("frameworks", ())
    }
    assert "bert" in listed.architectures and not listed.composites and not listed.presets


def test_a_framework_alone_is_that_of_any_class() -> None:
    listed = families(framework="tensorflow")
    assert "whisper" in listed.architectures and "gpt_neox" not in listed.architectures
    assert {*listed.composites} < {*families().composites}


def test_an_encoder_has_the_frameworks_of_its_composite() -> None:
    hubert = families("hubert").architectures["hubert"]
    assert hubert["frameworks"] == ["pytorch", "tensorflow"]
    assert hubert["roles"]["encoder"]["frameworks"] == ["pytorch"]
    assert "speech-encoder-decoder" in hubert["roles"]["encoder"]["left_out"]["tensorflow"]


@pytest.mark.parametrize("pattern", ["gpt", "gpt*"])
def test_the_start_of_names_lists_those(pattern: str) -> None:
    names = [*families(pattern).architectures]
    assert names == ["gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj"]
    assert families(pattern).name is None
    assert [*families("bert", role="decoder").architectures] == ["bert", "bert-generation"]


def test_names_are_in_the_order_of_people() -> None:
    names = [*families().architectures]
    assert names.index("bert") < names.index("bert-generation") < names.index("big_bird")
    assert names.index("deberta") < names.index("deberta-v2")
    assert sorted(["gpt10", "gpt_neo", "gpt2", "gpt"], key=natural_key) == [
        *("gpt", "gpt2", "gpt10", "gpt_neo")
    ]

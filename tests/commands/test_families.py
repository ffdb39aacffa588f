"""`families`: the supported architectures, composites and presets, as values."""

from __future__ import annotations

import pytest

from converter import UnsupportedError, UsageError, families
from converter.architectures.registry import ArchitectureRegistry


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

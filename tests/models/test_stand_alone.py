"""What a submodel is as a model of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter import UnsupportedError
from converter.architectures.model_config import ModelConfig
from converter.architectures.registry import ArchitectureRegistry
from converter.file_names import tables_directory
from converter.models.stand_alone import StandAloneModel, stand_alone_model
from tests.transformers.tiny import tiny

COMPOSITE, PART = "t5gemma", "t5_gemma_module"


def decoder(registry: ArchitectureRegistry) -> StandAloneModel:
    """Return a decoder that attends to an encoder of 48 values, as a model of its own."""
    raw = {**tiny("gemma2").config, "is_decoder": True, "cross_attention_hidden_size": 48}
    config = ModelConfig(registry.architecture(PART), {**raw, "model_type": PART})
    return stand_alone_model(registry.composite(COMPOSITE), "decoder", config, registry)


def table(directory: Path, name: str, old: str, new: str) -> ArchitectureRegistry:
    """Return the tables with a changed one."""
    text = (tables_directory() / f"{name}.toml").read_text()
    assert text.count(old) == 1
    path = directory / f"{name}.toml"
    path.write_text(text.replace(old, new))
    return ArchitectureRegistry([path])


def test_it_has_all_that_the_stand_alone_model_needs() -> None:
    alone = decoder(ArchitectureRegistry())
    assert alone.config.architecture.name == alone.config.raw["model_type"] == "gemma2"
    assert not {"is_decoder", "cross_attention_hidden_size"} & alone.config.raw.keys()
    assert alone.model.name == "Gemma2ForCausalLM"
    assert sorted(alone.names.values()) == sorted(param.name for param in alone.spec.params)
    before = "layers.0.pre_self_attn_layernorm.weight"
    assert alone.names[before] == "layers.0.input_layernorm.weight"
    assert not any("cross_attn" in name for name in alone.names)


def test_what_it_lacks_is_named(tmp_path: Path) -> None:
    row = '"layers.{layer}.input_layernorm"          = false\n'
    without = table(tmp_path, PART, row, f'{row}"layers.{{layer}}.mlp.up_proj" = false\n')
    with pytest.raises(UnsupportedError, match="decoder of t5gemma is not a Gemma2ForCausal") as it:
        decoder(without)
    assert "layers.0.mlp.up_proj.weight" in {problem.tensor for problem in it.value.problems}


def test_a_part_of_nothing_stays_a_part(tmp_path: Path) -> None:
    alone = table(
        tmp_path,
        "gemma2",
        '[becomes]                # two of them\nt5gemma = "t5_gemma_module"\n',
        "",
    )
    with pytest.raises(UnsupportedError, match="no class for the decoder of t5gemma alone"):
        decoder(alone)

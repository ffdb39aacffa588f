"""Tables of sequence-to-sequence families: one table for the whole model and its decoder alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from converter.architectures.loader import load_architecture
from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import ModelSpec, ModelSpecBuilder
from converter.initializers import Initializer
from tests.architectures.test_loader import VOCABULARY, table
from tests.factories import bundled_registry

LIBRARY = bundled_registry()


def expanded(architecture: str, model: str, prefix: str = "", **fields: Any) -> ModelSpec:
    table = LIBRARY.architecture(architecture)
    chosen = table.models[model]
    config = ModelConfig(table, {"encoder_layers": 1, "decoder_layers": 1, **fields})
    return ModelSpecBuilder(LIBRARY.conventions).model(config, chosen.parts, chosen.heads, prefix)


def test_embeddings_are_shared_only_where_the_shared_ones_are() -> None:
    whole, decoder = expanded("bart", "BartModel"), expanded("bart", "BartForCausalLM")
    assert whole.by_name["decoder.embed_tokens.weight"].tied_to == "shared.weight"
    assert decoder.by_name["decoder.embed_tokens.weight"].tied_to is None
    assert decoder.resolve(decoder.by_name["lm_head.weight"]).name == "decoder.embed_tokens.weight"
    assert "shared.weight" not in decoder.by_name


def test_tied_tensors_are_stored_only_under_their_condition() -> None:
    name = "encoder.embed_tokens.weight"
    assert not expanded("bart", "BartModel").by_name[name].stored_in
    untied = expanded("bart", "BartModel", tie_word_embeddings=False).by_name[name]
    assert (untied.tied_to, untied.stored_in) == ("shared.weight", {"pytorch"})


def test_a_decoder_alone_holds_the_head_that_transformers_5_does_not_tie() -> None:
    alone, whole = (
        expanded("bigbird_pegasus", f"BigBirdPegasusFor{name}").by_name["lm_head.weight"]
        for name in ("CausalLM", "ConditionalGeneration")
    )
    assert alone.tied_to == whole.tied_to == "decoder.embed_tokens.weight"
    assert (alone.stored_in, whole.stored_in) == ({"pytorch"}, set())


def test_one_dialect_may_store_always_and_another_under_a_condition() -> None:
    data = table("bert")
    data["tied"]["cls.predictions.decoder.bias"] = {
        "to": "cls.predictions.bias",
        "stored_in": {"tensorflow": True, "flax": False, "pytorch": "num_hidden_layers > 3"},
    }
    architecture = load_architecture(data, "bert.toml", VOCABULARY)
    for layers, stored in ((3, {"tensorflow"}), (4, {"tensorflow", "pytorch"})):
        config = ModelConfig(architecture, {"num_hidden_layers": layers})
        param = ModelSpecBuilder(VOCABULARY).model(config).by_name["cls.predictions.decoder.bias"]
        assert param.stored_in == stored


def test_a_path_may_lie_beside_the_base_model() -> None:
    model = expanded("bart", "BartForConditionalGeneration")
    shared, bias = model.by_name["shared.weight"], model.by_name["final_logits_bias"]
    names = {dialect: spelling.name for dialect, spelling in shared.stored_as.items()}
    assert names["pytorch"] == "model.shared.weight"
    assert names["tensorflow"] == "model.shared/embeddings:0"
    assert names["flax"] == "model/shared/embedding"
    assert "model.shared/weight:0" in shared.stored_as["tensorflow"].aliases  # an older name
    assert {bias.stored_as[name].name for name in ("pytorch", "flax")} == {"final_logits_bias"}
    assert bias.stored_as["tensorflow"].name == "final_logits_bias:0"
    assert bias.canonical.shape == (1, 50265)
    submodel = expanded("bart", "BartForConditionalGeneration", prefix="decoder")
    assert (
        submodel.by_name["decoder.final_logits_bias"].canonical.name == "decoder.final_logits_bias"
    )


def test_a_family_joins_numbers_in_its_own_way() -> None:
    param = expanded("bart", "BartModel").by_name["encoder.layers.0.fc1.weight"]
    assert param.stored_as["tensorflow"].name == "model/encoder/layers.0/fc1/kernel:0"
    assert param.stored_as["flax"].name == "encoder/layers/0/fc1/kernel"


def test_a_dialect_may_lack_a_module() -> None:
    param = expanded("marian", "MarianMTModel").by_name["decoder.embed_positions.weight"]
    assert "tensorflow" in param.stored_as
    assert "flax" not in param.stored_as
    assert (param.rule, param.scale) == ("sinusoidal", 1024)


def test_sinusoids_are_sines_and_cosines_however_they_are_cut() -> None:
    for width in (6, 7):
        rule = Initializer("sinusoidal", width, seed=0, name="any")
        table = np.empty((9, width), np.float32)
        rule.fill(table)
        pairs = [
            [position / 10000 ** (2 * (column // 2) / width) for column in range(width)]
            for position in range(9)
        ]
        angles = np.array(pairs)
        wanted = np.hstack([np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])]).astype(np.float32)
        assert np.array_equal(table, wanted)
        piece = np.empty(11, np.float32)
        rule.fill(piece, start=5)
        assert np.array_equal(piece, wanted.reshape(-1)[5:16])
        other = np.empty_like(table)
        Initializer("sinusoidal", width, seed=8, name="another").fill(other)
        assert np.array_equal(other, table)

"""Configurations, hostile ones among them: a value that fits, or one ConfigError that names it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import MAX_TENSORS, ModelSpecBuilder
from converter.errors import ConfigError
from tests.factories import bundled_registry
from tests.formats.work import work_at_most

LIBRARY = bundled_registry()
SPEC_BUILDER = ModelSpecBuilder(LIBRARY.conventions)
BERT, GPT2, ALBERT = map(LIBRARY.architecture, ("bert", "gpt2", "albert"))

DEEP: list = []
for _ in range(5000):
    DEEP = [DEEP]


def draw(architecture, raw):
    return SPEC_BUILDER.model(ModelConfig(architecture, raw, "some/config.json"))


def test_a_field_left_out_has_the_familys_default():
    config = ModelConfig(BERT, {"hidden_size": 24})
    assert (config["hidden_size"], config["vocab_size"]) == (24, 30522)


def test_null_stands_for_the_default():
    assert ModelConfig(BERT, {"hidden_size": None})["hidden_size"] == 768


def test_null_stays_null_where_the_table_says_so():
    inner = "h.0.mlp.c_fc.weight"
    assert draw(GPT2, {"n_embd": 8, "n_inner": None}).by_name[inner].canonical.shape == (8, 32)
    assert draw(GPT2, {"n_embd": 8, "n_inner": 5}).by_name[inner].canonical.shape == (8, 5)


def test_a_nullable_field_may_have_a_default_that_is_not_null():
    mistral = LIBRARY.architecture("mistral")
    assert ModelConfig(mistral, {})["num_key_value_heads"] == 8
    assert ModelConfig(mistral, {"num_key_value_heads": None})["num_key_value_heads"] is None


def test_a_whole_number_will_do_for_a_fraction():
    assert ModelConfig(BERT, {"initializer_range": 1})["initializer_range"] == 1


def test_fields_of_no_concern_may_be_anything():
    assert draw(BERT, {"num_hidden_layers": 1, "id2label": {"0": "x"}, "deep": DEEP}).params


def test_measures():
    config = ModelConfig(GPT2, {"n_embd": 8})
    assert (config.attribute("width"), config.attribute("vocabulary")) == (8, 50257)
    assert config.attribute("of no such name") is None


@pytest.mark.parametrize(
    ("architecture", "raw", "named"),
    [
        (BERT, {"hidden_size": "768"}, "hidden_size"),
        (BERT, {"hidden_size": True}, "hidden_size"),
        (BERT, {"hidden_size": 768.0}, "hidden_size"),
        (BERT, {"hidden_size": [768]}, "hidden_size"),
        (BERT, {"hidden_size": {"a": 1}}, "hidden_size"),
        (BERT, {"hidden_size": DEEP}, "hidden_size"),
        (BERT, {"hidden_size": -768}, "hidden_size"),
        (BERT, {"hidden_size": 0}, "hidden_size"),
        (BERT, {"hidden_size": 2**41}, "hidden_size"),
        (BERT, {"hidden_size": 10**400}, "hidden_size"),
        (BERT, {"hidden_size": 1 << 100_000}, "hidden_size"),
        (BERT, {"num_hidden_layers": -1}, "num_hidden_layers"),
        (BERT, {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        (BERT, {"num_hidden_layers": 1 << 100_000}, "num_hidden_layers"),
        (BERT, {"num_hidden_layers": "12"}, "num_hidden_layers"),
        (BERT, {"num_hidden_layers": False}, "num_hidden_layers"),
        (BERT, {"num_hidden_layers": 10_000}, "tensors"),
        (ALBERT, {"num_hidden_groups": 10_000, "inner_group_num": 10_000}, "modules"),
        (BERT, {"initializer_range": "0.02"}, "initializer_range"),
        (BERT, {"initializer_range": math.nan}, "initializer_range"),
        (BERT, {"initializer_range": math.inf}, "initializer_range"),
        (BERT, {"tie_word_embeddings": 0}, "tie_word_embeddings"),
        (BERT, {"tie_word_embeddings": "false"}, "tie_word_embeddings"),
        (BERT, {"position_embedding_type": 7}, "position_embedding_type"),
        (
            BERT,
            {"position_embedding_type": "relative_key", "num_attention_heads": 7},
            "hidden_size / num_attention_heads",
        ),
        (
            BERT,
            {"position_embedding_type": "relative_key", "num_attention_heads": 0},
            "division by zero",
        ),
        (GPT2, {"n_inner": "many"}, "n_inner"),
        (GPT2, {"n_inner": math.nan}, "n_inner"),
        (GPT2, {"n_inner": math.inf}, "n_inner"),
        (GPT2, {"n_inner": -5}, "n_inner"),
        (GPT2, {"n_inner": 1.5}, "n_inner"),
        (GPT2, {"n_inner": [3]}, "n_inner"),
        (GPT2, {"n_inner": True}, "n_inner"),
    ],
    ids=lambda value: repr(value)[:50] if isinstance(value, str) else None,
)
def test_a_hostile_field_is_named_at_once(architecture, raw, named):
    with work_at_most(60), pytest.raises(ConfigError) as caught:
        draw(architecture, raw)
    text = str(caught.value)
    assert named in text and "some/config.json" in text
    assert len(text) < 2000


def test_a_field_that_the_table_does_not_list():
    with pytest.raises(ConfigError, match=r"bert\.toml does not list field 'd_model'"):
        ModelConfig(BERT, {"d_model": 3})["d_model"]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(BERT.config)), ANYTHING))
@settings(max_examples=150)
def test_any_configuration_is_expanded_or_refused(raw):
    try:
        model_spec = draw(BERT, {"num_hidden_layers": 1} | raw)
    except ConfigError:
        return
    assert len(model_spec.params) <= MAX_TENSORS
    for param in model_spec.params:
        assert all(isinstance(size, int) and size > 0 for size in param.canonical.shape)
        assert math.isfinite(param.scale)

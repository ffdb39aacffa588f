"""What frameworks lack: configurations in one role only, and parts of one class only."""

from __future__ import annotations

import pytest

from converter.architectures.loader import load_architecture
from converter.architectures.model_config import ModelConfig
from converter.architectures.schema import FRAMEWORKS
from converter.errors import TableError
from converter.models.framework_support import role_unsupported_reasons, unsupported_reasons
from tests.architectures.test_loader import VOCABULARY, load, table
from tests.factories import bundled_registry


def test_a_limit_of_a_role_concerns_no_model_by_itself():
    data = table("gpt2")
    limit = {"when": "n_layer > 3", "reason": "too deep", "role": "encoder"}
    data["unsupported"]["deep"] = {**limit, "frameworks": list(FRAMEWORKS)}
    architecture = load_architecture(data, "gpt2.toml", VOCABULARY)
    deep, flat = (ModelConfig(architecture, {"n_layer": layers}) for layers in (4, 3))
    model = architecture.models["GPT2Model"]
    assert unsupported_reasons(deep, model) == {}
    assert role_unsupported_reasons(deep, "decoder") == {}
    assert role_unsupported_reasons(flat, "encoder") == {}
    found = role_unsupported_reasons(deep, "encoder")
    assert set(found) == set(FRAMEWORKS) and all("too deep" in why for why in found.values())


def test_a_limit_of_an_unknown_role_is_refused():
    data = table("gpt2")
    data["unsupported"]["deep"] = {
        "when": "n_layer > 3",
        "frameworks": ["flax"],
        "reason": "no",
        "role": "author",
    }
    assert any("author" in problem for problem in load("gpt2", data))


def test_a_class_may_lack_a_part_in_one_framework():
    model = bundled_registry().architecture("mpnet").models["MPNetForMaskedLM"]
    assert model.missing_parts == {"pytorch": frozenset({"pooler"})}


@pytest.mark.parametrize("without", [{"pytorch": ["lm"]}, {"mxnet": ["pooler"]}])
def test_only_a_part_of_the_model_can_be_lacking(without):
    data = table("bert")
    data["models"]["BertModel"]["missing_parts"] = without
    with pytest.raises(TableError, match=r"models\.BertModel\.missing_parts"):
        load_architecture(data, "bert.toml", VOCABULARY)

"""The likely architecture of weights without a configuration, by their names alone."""

from __future__ import annotations

from typing import Any

import pytest

from converter.models.likely_types import likely_types
from tests.factories import bundled_registry, model_spec, tiny_config


def names(
    architecture: str, dialect: str = "pytorch", prefix: str = "", **options: Any
) -> list[str]:
    """Return the names in a file of a tiny model."""
    spec = model_spec(tiny_config(architecture), **options)
    return [
        prefix + param.stored_as[dialect].name
        for param in spec.params
        if not param.tied_to or dialect in param.stored_in
    ]


@pytest.mark.parametrize("dialect", ["pytorch", "tensorflow", "flax"])
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "roberta", "bart", "distilbert", "vit"])
def test_architecture_is_likely_by_its_names(architecture, dialect):
    likely = likely_types(names(architecture, dialect), bundled_registry())
    assert architecture in likely.model_types[""]
    assert likely.dialect == dialect


@pytest.mark.parametrize("prefix", ["model.", "module.model.", "0.auto_model.", "bert."])
def test_prefix_of_a_wrapper_does_not_matter(prefix):
    likely = likely_types(names("bert", prefix=prefix), bundled_registry())
    assert likely.model_types[""][0] == "bert"


def test_prefix_of_the_base_model_decides_between_equal_names():
    likely = likely_types(names("roberta", prefix="roberta."), bundled_registry())
    assert likely.model_types[""][0] == "roberta"
    assert "bert" not in likely.model_types[""]


def test_submodels_of_a_pair_are_likely_each():
    encoder = names("bert", prefix="encoder.")
    decoder = names("gpt2", prefix="decoder.transformer.", cross_attention=True)
    likely = likely_types([*encoder, *decoder], bundled_registry())
    assert likely.model_types["encoder"][0] == "bert"
    assert likely.model_types["decoder"][0] == "gpt2"


@pytest.mark.parametrize("foreign", [[], ["a"], ["conv1.weight", "bn1.running_mean", "fc.bias"]])
def test_other_names_are_of_no_architecture(foreign):
    assert not likely_types(foreign, bundled_registry()).model_types

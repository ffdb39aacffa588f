"""Every name and shape that the tables give, against what transformers wrote."""

from __future__ import annotations

import pytest

from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import ModelSpec, ModelSpecBuilder
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import CROSS_ATTENTION, Family, ModelClass
from tests.architectures.measured import Measured, measured

LIBRARY = ArchitectureRegistry()
DRAFTSMAN = ModelSpecBuilder(LIBRARY.vocabulary)
CASES = list(measured())


def stated(family: Family, config: dict, framework: str) -> ModelClass:
    """The class that a configuration names, which it does without the framework's prefix."""
    prefix = {"pytorch": "", "tensorflow": "TF", "flax": "Flax"}[framework]
    (name,) = config["architectures"]
    (found,) = [
        model
        for model in family.models.values()
        if model.name == name or model.classes.get(framework) == prefix + name
    ]
    return found


def half(case: Measured, name: str) -> tuple[ModelConfig, ModelSpec]:
    config = case.config[name]
    family = LIBRARY.family(config["model_type"])
    read = ModelConfig(family, config)
    model = family.models[family.roles[name].model]
    parts = (*model.parts, CROSS_ATTENTION) if name == "decoder" else model.parts
    return read, DRAFTSMAN.model(read, parts, model.heads, prefix=name)


def blueprint(case: Measured) -> ModelSpec:
    if case.is_combined:
        composite = LIBRARY.composite(case.config["model_type"])
        halves = {name: half(case, name) for name in composite.halves}
        return DRAFTSMAN.composite(
            composite,
            {name: config for name, (config, _) in halves.items()},
            {name: drawn for name, (_, drawn) in halves.items()},
        )
    family = LIBRARY.family(case.family)
    model = stated(family, case.config, case.framework)
    assert case.framework in model.classes
    return DRAFTSMAN.model(ModelConfig(family, case.config), model.parts, model.heads)


def written(target: ModelSpec, case: Measured) -> dict[str, tuple[int, ...]]:
    """What a file holds: tied tensors only in torch's own files, or where their table says so."""
    spelled = [
        slot.spellings[case.framework]
        for slot in target.params
        if not slot.tied_to or case.container == "torch" or case.framework in slot.stored
    ]
    shapes = {spelling.name: spelling.shape for spelling in spelled}
    assert len(shapes) == len(spelled), "a name is written twice"
    return shapes


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_name_and_shape_is_as_transformers_writes_it(case):
    assert written(blueprint(case), case) == case.tensors


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_name_that_transformers_writes_is_understood(case):
    """Matching knows all parts and heads of a family at once, so nothing may be ambiguous."""
    if case.is_combined:
        target = blueprint(case)
    else:
        target = DRAFTSMAN.model(ModelConfig(LIBRARY.family(case.family), case.config))
    index = target.index(case.framework)
    found = {name: index[name] for name in case.tensors}
    assert len({slot.name for slot in found.values()}) == len(found)
    for name, slot in found.items():
        assert slot.spellings[case.framework].shape == case.tensors[name]


def test_nine_families_were_measured_in_every_framework_they_have():
    measured_in = {family: set() for family in {case.family for case in CASES}}
    for case in CASES:
        measured_in[case.family].add(case.framework)
    assert len(measured_in) == 9
    for family, frameworks in measured_in.items():
        classes = [model.classes for model in LIBRARY.family(family).models.values()]
        assert frameworks == {framework for named in classes for framework in named}

"""Every name and shape that the tables give, against what transformers wrote."""

from __future__ import annotations

import pytest

from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import ModelSpec, ModelSpecBuilder
from converter.architectures.schema import CROSS_ATTENTION, Architecture, ModelClass
from tests.architectures.measured import Measured, measured
from tests.factories import bundled_registry

LIBRARY = bundled_registry()
SPEC_BUILDER = ModelSpecBuilder(LIBRARY.conventions)
CASES = list(measured())


def stated(architecture: Architecture, config: dict, framework: str) -> ModelClass:
    """Return the class that a configuration names, without the framework's prefix."""
    prefix = {"pytorch": "", "tensorflow": "TF", "flax": "Flax"}[framework]
    (name,) = config["architectures"]
    (found,) = [
        model
        for model in architecture.models.values()
        if model.name == name or model.classes.get(framework) == prefix + name
    ]
    return found


def submodel(case: Measured, name: str) -> tuple[ModelConfig, ModelSpec]:
    config = case.config[name]
    architecture = LIBRARY.architecture(config["model_type"])
    read = ModelConfig(architecture, config)
    model = architecture.models[architecture.roles[name].model]
    parts = (*model.parts, CROSS_ATTENTION) if name == "decoder" else model.parts
    return read, SPEC_BUILDER.model(read, parts, model.heads, prefix=name)


def model_spec(case: Measured) -> ModelSpec:
    if case.is_combined:
        composite = LIBRARY.composite(case.config["model_type"])
        submodels = {name: submodel(case, name) for name in composite.submodels}
        return SPEC_BUILDER.composite(
            composite,
            {name: config for name, (config, _) in submodels.items()},
            {name: expanded for name, (_, expanded) in submodels.items()},
        )
    architecture = LIBRARY.architecture(case.architecture)
    model = stated(architecture, case.config, case.framework)
    assert case.framework in model.classes
    return SPEC_BUILDER.model(ModelConfig(architecture, case.config), model.parts, model.heads)


def written(target: ModelSpec, case: Measured) -> dict[str, tuple[int, ...]]:
    """Return what a file holds; tied tensors only in torch files, or where the table says so."""
    spelled = [
        param.stored_as[case.framework]
        for param in target.params
        if not param.tied_to or case.file_format == "torch" or case.framework in param.stored_in
    ]
    shapes = {spelling.name: spelling.shape for spelling in spelled}
    assert len(shapes) == len(spelled), "a name is written twice"
    return shapes


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_name_and_shape_is_as_transformers_writes_it(case):
    assert written(model_spec(case), case) == case.tensors


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_name_that_transformers_writes_is_understood(case):
    """Matching knows all parts and heads of a family at once, so nothing may be ambiguous."""
    if case.is_combined:
        target = model_spec(case)
    else:
        target = SPEC_BUILDER.model(
            ModelConfig(LIBRARY.architecture(case.architecture), case.config)
        )
    index = target.index(case.framework)
    found = {name: index[name] for name in case.tensors}
    assert len({param.name for param in found.values()}) == len(found)
    for name, param in found.items():
        assert param.stored_as[case.framework].shape == case.tensors[name]


def test_nine_families_were_measured_in_every_framework_they_have():
    measured_in: dict[str, set[str]] = {
        architecture: set() for architecture in {case.architecture for case in CASES}
    }
    for case in CASES:
        measured_in[case.architecture].add(case.framework)
    assert len(measured_in) == 9
    for architecture, frameworks in measured_in.items():
        classes = [model.classes for model in LIBRARY.architecture(architecture).models.values()]
        assert frameworks == {framework for named in classes for framework in named}

"""The submodels of a combined model as models of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import ModelSpec
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import Composite, ModelClass
from converter.errors import Problem, UnsupportedError
from converter.models.framework_support import composite_class
from converter.models.model import Model


@dataclass(frozen=True)
class StandAloneModel:
    """A submodel as a model of its own, and which of its parameters are which."""

    config: ModelConfig
    model: ModelClass
    spec: ModelSpec
    names: Mapping[str, str]
    """Canonical name in the composite, without the submodel → canonical name in `spec`."""


def stand_alone_model(
    composite: Composite, submodel: str, config: ModelConfig, registry: ArchitectureRegistry
) -> StandAloneModel:
    """Return a submodel of `composite`, configured by `config`, as a model of its own.

    In a closed composite it is of the architecture that becomes the submodel's, without the
    parameters that only the composite has. Raise UnsupportedError if there is no such architecture,
    or it has parameters that the submodel lacks.
    """
    model, parts = composite_class(composite, submodel, config)
    builder = registry.specs
    if not composite.closed:
        spec = builder.model(config, parts, model.heads, base=model.base_model_prefix)
        return StandAloneModel(config, model, spec, {p.name: p.name for p in spec.params})
    name = registry.stand_alone_name(config.architecture.name, composite)
    if name is None:
        raise UnsupportedError(
            f"{config.file}: transformers has no class for the {submodel} of {composite.name} alone"
        )
    architecture, role = registry.architecture(name), config.architecture.roles[submodel]
    added = {*role.config, *(field.partition(".")[2] for field in composite.derived)}
    raw = {key: value for key, value in config.raw.items() if key not in added}
    own = ModelConfig(architecture, {**raw, "model_type": name}, config.file)
    own_class = next(each for each in architecture.models.values() if each.heads == model.heads)
    spec = builder.model(own, own_class.parts, own_class.heads)
    index = builder.model(config, parts, model.heads).index("pytorch")
    names, problems = {}, []
    for param in spec.params:
        twin = index.get(param.name)
        if twin and twin.canonical.shape == param.canonical.shape:
            names[twin.name] = param.name
        else:
            found = f"{twin.name} {list(twin.canonical.shape)}" if twin else "nothing"
            expected = str(list(param.canonical.shape))
            what = f"the {submodel} has nothing that fits"
            problems.append(Problem(what, config.file, param.name, expected, found))
    if problems:
        raise UnsupportedError(
            f"{config.file}: the {submodel} of {composite.name} is not a {own_class.name}", problems
        )
    return StandAloneModel(own, own_class, spec, names)


def stand_alone_names(
    model: Model, submodel: str, registry: ArchitectureRegistry
) -> dict[str, str]:
    """Return canonical name of `model` → name in `submodel` as a model of its own."""
    if model.composite is None or not model.composite.closed:
        prefix = f"{submodel}."
        names = (param.name for param in model.spec.params if param.name.startswith(prefix))
        return {name: name.removeprefix(prefix) for name in names}
    own = stand_alone_model(model.composite, submodel, model.configs[submodel], registry)
    return {f"{submodel}.{name}": renamed for name, renamed in own.names.items()}

"""Checks of a mapping table beyond what loading it shows.

The models of an architecture are built with small configurations that bring out every row
(`sample_configs`) and checked (`model_checks`); a table that extends another must change it; a
composite must fit the architectures that can be its submodels. Nothing is raised: each `Problem`
names its place and remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from converter.architectures.cross_references import unused_fields, unused_groups
from converter.architectures.decoding import parse_toml, read_table
from converter.architectures.loader import load_conventions
from converter.architectures.model_checks import (
    check_layer_type,
    check_models,
    check_rows,
    duplicate_names,
)
from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import ModelSpec, ModelSpecBuilder
from converter.architectures.registry import (
    DIALECTS,
    MERGED,
    MERGED_DEEPLY,
    OWN,
    ArchitectureRegistry,
)
from converter.architectures.sample_configs import base_config, sample_configs
from converter.architectures.schema import (
    CROSS_ATTENTION,
    FRAMEWORKS,
    Architecture,
    Composite,
    Conventions,
)
from converter.errors import ConverterError, Problem, TableError


def redundant_overrides(parent: Mapping[str, Any], child: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what `child` states although `parent`, its own parents resolved, states the same."""
    for key, value in child.items():
        if key not in parent or key in OWN or key in child.get("replaces", ()):
            continue
        if key in (*MERGED, *MERGED_DEEPLY) and isinstance(value, dict):
            yield from _same(parent[key], value, key, key in MERGED_DEEPLY)
        elif value == parent[key]:
            yield _idle(key)


def _same(parent: Any, child: Mapping[str, Any], place: str, deeply: bool) -> Any:
    if not isinstance(parent, dict):
        return
    for key, value in child.items():
        if key not in parent:
            continue
        if deeply and isinstance(value, dict):
            yield from _same(parent[key], value, f"{place}.{key}", False)
        elif type(value) is type(parent[key]) and value == parent[key]:
            yield _idle(f"{place}.{key}")


def _idle(place: str) -> Problem:
    return Problem(
        "changes nothing",
        tensor=place,
        expected="something else than in the table that is extended",
        found="the same",
        remedy="Remove it.",
    )


def lint(path: Path, registry: ArchitectureRegistry | None = None) -> list[Problem]:
    """Return each problem of a table: of an architecture, of a composite, or ``_dialects.toml``.

    It may extend the tables of `registry`, the bundled ones by default.
    """
    registry = registry or ArchitectureRegistry()
    try:
        found = [replace(each, file=str(path)) for each in _findings(path, registry)]
    except ConverterError as error:
        found = list(error.problems) or [_problem(error, str(path))]
    return list(dict.fromkeys(found))


def _problem(error: ConverterError, file: str) -> Problem:
    """Return an error as a problem in `file`, which it may name itself."""
    return Problem(error.message.removeprefix(f"{file}: "), file, remedy=error.remedy)


def _findings(path: Path, registry: ArchitectureRegistry) -> Iterator[Problem]:
    file = str(path)
    if path.stem == DIALECTS:
        yield from _conventions(load_conventions(parse_toml(read_table(path), file), file))
        return
    registry, name = registry.with_table(path)
    if registry.is_composite(name):
        yield from _composite(registry.composite(name), registry)
        return
    architecture = registry.architecture(name)
    child, parent = registry.contents(name)
    if parent is not None:
        yield from redundant_overrides(parent, child)
    yield from unused_fields(architecture, child.get("config", {}))
    yield from unused_groups(architecture, {*child.get("parts", {}), *child.get("heads", {})})
    if "cross_attention_init" in child and CROSS_ATTENTION not in architecture.parts:
        yield Problem(
            "concerns cross-attention, which the architecture does not have",
            tensor="cross_attention_init",
            remedy="Remove it.",
        )
    yield from _architecture(architecture, registry)


def _architecture(architecture: Architecture, registry: ArchitectureRegistry) -> Iterator[Problem]:
    yield from _submodels(architecture, registry)
    yield from check_rows(architecture, registry.conventions)
    configs, problems = sample_configs(architecture, "")
    yield from problems
    yield from check_models(architecture, registry.conventions, configs)


def _submodels(architecture: Architecture, registry: ArchitectureRegistry) -> Iterator[Problem]:
    """Yield roles and attributes that do not fit the composites."""
    composites = [
        registry.composite(name) for name in registry.names if registry.is_composite(name)
    ]
    known = {role for composite in composites for role in composite.roles.values()}
    for role in architecture.roles:
        if role not in known:
            yield Problem(
                "is not a submodel of any composite",
                tensor=f"roles.{role}",
                expected=", ".join(sorted(known)),
                found=role,
                remedy="Correct the name.",
            )
    for composite in composites:
        for place, name in _attributes(composite):
            submodel, _, attribute = name.partition(".")
            if (
                name not in composite.config
                and _can_be(architecture, submodel, composite)
                and attribute not in architecture.attributes
            ):
                yield Problem(
                    f"lacks {attribute!r}",
                    tensor="attributes",
                    expected=f"what {composite.name} uses of its {submodel} in {place}",
                    found=", ".join(architecture.attributes),
                    remedy=f'Name the field: {attribute} = "…".',
                )


def _can_be(architecture: Architecture, submodel: str, composite: Composite) -> bool:
    """Return whether the architecture can be a submodel of the composite.

    The role of the first submodel names the composite.
    """
    role = composite.roles[submodel]
    if role not in architecture.roles:
        return False
    return (
        submodel != composite.submodels[0]
        or not composite.generates
        or architecture.roles[role].composite == composite.name
    )


def _attributes(composite: Composite) -> Iterator[tuple[str, str]]:
    """Yield key path and name of each attribute that a composite uses."""
    for row in composite.modules:
        place = f"modules.{row.path}"
        asked = [(row.layer_type.name, size) for size in row.sizes]
        asked += [("when", row.when)] if row.when else []
        asked += [("init", row.init.scale)] if row.init else []
        for key, expression in asked:
            yield from ((f"{place}.{key}", name) for name in sorted(expression.fields))
    for name, unsupported in composite.unsupported.items():
        place = f"unsupported.{name}.when"
        yield from ((place, field) for field in sorted(unsupported.when.fields))


def _composite(composite: Composite, registry: ArchitectureRegistry) -> Iterator[Problem]:
    def problem(place: str, what: str, expected: str, found: str, remedy: str) -> Problem:
        return Problem(what, None, place, expected, found, remedy)

    if len(set(composite.submodels)) != len(composite.submodels):
        yield problem(
            "submodels", "are the same", "two names", composite.submodels[0], "Rename one."
        )
    if not composite.classes:
        yield problem("classes", "is empty", ", ".join(FRAMEWORKS), "none", "Name the classes.")
    architectures = _architectures(registry)
    models = {each.name: each.models for each in architectures}
    for submodel, supported in composite.models.items():
        for name, entry in supported.items():
            if entry.model not in models.get(name, {}):
                place = f"models.{submodel}.{name}"
                known = "an architecture, and one of its models"
                yield problem(place, "is not a model", known, entry.model, "Correct the name.")
    attributes = {
        attribute for architecture in architectures for attribute in architecture.attributes
    }
    broken = False
    for place, name in _attributes(composite):
        submodel, _, attribute = name.partition(".")
        if name in composite.config:
            continue
        if submodel not in composite.submodels or attribute not in attributes:
            broken = True
            known = f"{' or '.join(composite.submodels)}, a dot, and one of {', '.join(attributes)}"
            yield problem(
                place, "is not an attribute of a submodel", known, name, "Correct the name."
            )
    for row in composite.modules:
        place = f"modules.{row.path}"
        if row.path.places:
            broken = True
            yield problem(
                place, "has placeholders", "none", ", ".join(row.path.places), "Fill them."
            )
        is_random = any(
            param.init == "normal" and param.name not in row.omitted
            for param in row.layer_type.params
        )
        if row.init is None and is_random:
            yield problem(
                place,
                "has no init, and a composite has no default",
                'such as init = "normal(decoder.init_range)"',
                "no init",
                "Write it.",
            )
    if not broken:
        yield from _joined(composite, architectures, registry)


def _architectures(registry: ArchitectureRegistry) -> list[Architecture]:
    """Return all architectures whose tables are valid; problems of others are reported there."""
    architectures = []
    for name in registry.names:
        with suppress(TableError):
            if not registry.is_composite(name):
                architectures.append(registry.architecture(name))
    return architectures


def _joined(
    composite: Composite, architectures: Iterable[Architecture], registry: ArchitectureRegistry
) -> Iterator[Problem]:
    """Check the composite with submodels of equal and of unequal attributes."""
    conventions = registry.conventions
    builder = ModelSpecBuilder(conventions)
    first, second = composite.submodels
    encoders = [
        architecture for architecture in architectures if _can_be(architecture, first, composite)
    ]
    decoders = [
        each
        for each in architectures
        if (role := each.roles.get(composite.roles[second]))
        and (not composite.generates or registry.takes(composite, role))
    ]
    names: set[str] = set()
    built = 0
    for one in encoders[:1]:
        for other in decoders:
            submodels = {
                submodel: ModelConfig(architecture, config.raw)
                for submodel, architecture in ((first, one), (second, other))
                if (config := base_config(architecture))
            }
            if len(submodels) < 2:
                continue
            try:
                models = {
                    submodel: _submodel_spec(builder, submodel, composite, config)
                    for submodel, config in submodels.items()
                }
            except TableError:  # a problem of the architecture's own table
                continue
            spec = builder.composite(composite, submodels, models)
            built += 1
            names |= {param.name for param in spec.params}
            yield from duplicate_names(spec, conventions)
    for row in composite.modules:
        if built and not any(name.startswith(row.path.text) for name in names):
            yield Problem(
                "the row is dead: no two submodels bring it out",
                tensor=f"modules.{row.path}",
                expected="a condition that is true for some submodels",
                found=str(row.when),
                remedy="Correct the condition, or remove the row.",
            )


def _submodel_spec(
    builder: ModelSpecBuilder, submodel: str, composite: Composite, config: ModelConfig
) -> ModelSpec:
    role = composite.roles[submodel]
    model = config.architecture.models[config.architecture.roles[role].model]
    has = CROSS_ATTENTION in config.architecture.parts and role == "decoder"
    parts = (*model.parts, CROSS_ATTENTION) if has else model.parts
    return builder.model(
        config, parts, model.heads, submodel, model.base_model_prefix, composite.prefixed
    )


def _conventions(conventions: Conventions) -> Iterator[Problem]:
    for layer_type in conventions.layer_types.values():
        yield from check_layer_type(layer_type)
        named = {
            axis
            for param in layer_type.params
            for layout in param.layouts.values()
            for axis in layout.axes.names
        }
        for size in sorted(set(layer_type.sizes) - named):
            yield Problem(
                f"no tensor has the size {size!r}",
                tensor=f"{layer_type.name}.sizes",
                expected="sizes that some tensor's axes name",
                found=", ".join(layer_type.sizes),
                remedy="Remove it, or name it in axes.",
            )
        for dialect in conventions.dialects:
            names = [
                name
                for param in layer_type.params
                if dialect in param.layouts
                for name in (param.layouts[dialect].name, *param.layouts[dialect].aliases)
            ]
            for name in sorted({name for name in names if names.count(name) > 1}):
                yield Problem(
                    f"two tensors of the layer_type are called {name!r}",
                    tensor=f"{layer_type.name}",
                    expected=f"distinct names in {dialect}",
                    found=", ".join(names),
                    remedy="Rename one.",
                )

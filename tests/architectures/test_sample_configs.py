"""Every family table has a tiny model, whose variants exercise every row; no framework needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converter import inspect
from converter.architectures.cross_references import expressions
from converter.architectures.model_config import ModelConfig
from converter.architectures.schema import CROSS_ATTENTION, FRAMEWORKS, ModuleEntry
from converter.models.framework_support import unsupported_reasons
from tests.factories import model_spec, stored, write
from tests.sampling import quick_sample
from tests.transformers.tiny import (
    DIRECTORY,
    LIBRARY,
    MODEL_TYPES,
    complete_model_types,
    roles,
    sample,
    single_models,
    tiny,
)

FORMATS = {"pytorch": "safetensors", "tensorflow": "keras-hdf5", "flax": "flax-msgpack"}


@pytest.mark.parametrize("architecture", MODEL_TYPES)
def test_every_family_has_a_tiny_model(architecture: str) -> None:
    LIBRARY.architecture(architecture)
    assert (DIRECTORY / f"{architecture}.json").is_file(), (
        f"write {DIRECTORY.name}/{architecture}.json as tests/transformers/test_every_table.py says"
    )


def test_no_tiny_model_is_without_its_table() -> None:
    assert {path.stem for path in DIRECTORY.glob("*.json")} <= set(MODEL_TYPES)


@pytest.mark.parametrize("architecture", complete_model_types())
def test_every_row_is_exercised(architecture: str) -> None:
    table, configs = LIBRARY.architecture(architecture), _configs(architecture)
    rows = [
        *table.modules,
        *(row for part in table.parts.values() for row in part),
        *(row for head in table.heads.values() for row in head),
    ]
    idle = [str(row.path) for row in rows if not any(_lives(row, config) for config in configs)]
    assert not idle, f"neither the configuration nor a variant has {idle}"


@pytest.mark.parametrize("architecture", quick_sample(complete_model_types(), 4))
def test_every_part_and_head_is_of_a_class(architecture: str) -> None:
    table = LIBRARY.architecture(architecture)
    used = {name for model in table.models.values() for name in (*model.parts, *model.heads)}
    used |= {CROSS_ATTENTION} if "decoder" in table.roles else set()
    _, parent = LIBRARY.contents(architecture)
    inherited = {*parent.get("parts", {}), *parent.get("heads", {})} if parent else set()
    assert used <= {*table.parts, *table.heads} <= used | inherited
    assert {model for name, model, _ in single_models() if name == architecture} == {*table.models}
    assert {role for name, role, _ in roles() if name == architecture} == {*table.roles}


@pytest.mark.parametrize("architecture", complete_model_types())
def test_every_condition_is_met_and_is_not(architecture: str) -> None:
    """Conditions of rows, ties and limits; those on a place in the path are not counted.

    Nor are inherited limits of frameworks that the family has no class for.
    """
    table, configs = LIBRARY.architecture(architecture), _configs(architecture)
    has = {framework for model in table.models.values() for framework in model.classes}
    idle = {
        f"unsupported.{name}.when"
        for name, limit in table.unsupported.items()
        if has.isdisjoint(limit.frameworks)
    }
    one_sided = [
        (place, met)
        for place, expression, places in expressions(table)
        if place.endswith(".when") and place not in idle
        if not expression.fields & {*places}
        if len(met := {config.is_true(expression) for config in configs}) < 2
    ]
    assert not one_sided, f"neither the configuration nor a variant changes {one_sided}"


@pytest.mark.parametrize("architecture", complete_model_types())
def test_every_variant_makes_a_test(architecture: str) -> None:
    judged = {variant for name, _, variant in (*single_models(), *roles()) if name == architecture}
    assert judged == {"", *tiny(architecture).variants}


def test_the_sample_that_plain_pytest_runs_has_every_class_role_and_variant() -> None:
    every = {*single_models(), *roles()}
    sampled = {*sample(single_models()), *sample(roles())}
    for part in (slice(0, 2), slice(0, 3, 2)):  # class or role, and variant
        assert {case[part] for case in sampled} == {case[part] for case in every}


REFUSED = [
    (architecture, name)
    for architecture in complete_model_types()
    for name in tiny(architecture).refused
]


@pytest.mark.parametrize(("architecture", "name"), REFUSED)
def test_what_no_framework_takes_is_refused_by_a_limit(architecture: str, name: str) -> None:
    spec = tiny(architecture)
    config = ModelConfig(spec.table, {**spec.fields(), **spec.refused[name]}, architecture)
    limits = [
        limit.reason for limit in spec.table.unsupported.values() if config.is_true(limit.when)
    ]
    refused = [
        reasons
        for model in spec.table.models.values()
        if (reasons := unsupported_reasons(config, model)).keys() >= {*FRAMEWORKS}
    ]
    assert any(
        reason in text for reasons in refused for text in reasons.values() for reason in limits
    )


def _configs(architecture: str) -> list[ModelConfig]:
    """Return the configuration, its variants, and those of single classes."""
    spec = tiny(architecture)
    fields = [spec.fields(variant) for variant in ("", *spec.variants)]
    changed = [*spec.class_config.values(), *spec.refused.values()]
    changed += [each["config"] for each in spec.cannot_build.values()]
    fields += [{**spec.fields(), **changes} for changes in changed]
    return [ModelConfig(spec.table, each, architecture) for each in fields]


@pytest.mark.parametrize("architecture", quick_sample(complete_model_types(), 4))
def test_every_name_to_leave_out_is_left_out_with_its_reason(
    architecture: str, tmp_path: Path
) -> None:
    """In each framework's names, beside the tensors of a model that has a head and of one alone."""
    spec = tiny(architecture)
    models = [*spec.table.models.values()]
    model = next((each for each in models if each.heads), models[0])
    for dialect, file_format in FORMATS.items():
        templates = spec.table.ignore.get(dialect, {})
        if not templates or dialect not in model.classes:
            continue
        config = {
            **spec.config,
            **spec.class_config.get(model.name, {}),
            "model_type": architecture,
        }
        tensors = stored(model_spec(config, model.name), dialect)
        base = spec.table.base_model_prefix.get(dialect, "") if model.heads else ""
        separator = LIBRARY.conventions.dialects[dialect].separator
        extra = {}
        for template, reason in templates.items():
            steps = dict.fromkeys(template.places, 0)
            name = str(template.format(steps) if steps else template).replace("*", "any")
            if dialect == "tensorflow" and not name.endswith(":0"):
                name += ":0"
            extra[separator.join(filter(None, (base, name)))] = reason
        known = {name for name in extra if name in tensors}
        place = tmp_path / dialect
        scope = {"scope": "tf_model"} if dialect == "tensorflow" else {}
        arrays = {**{name: np.zeros(3, "float32") for name in extra}, **tensors}
        write(place, config, arrays, file_format, scope)
        dropped = inspect(place).to_dict()["ignored"]
        missed = {name: why for name, why in extra.items() if dropped.get(name) != why}
        assert not {name: why for name, why in missed.items() if name not in known}, dropped


def _lives(row: ModuleEntry, config: ModelConfig) -> bool:
    """Whether a model of this configuration has the row at any of its places."""
    choices: list[dict[str, int | str]] = [{}]
    for name in row.path.places:
        choices = [
            {**chosen, name: step}
            for chosen in choices
            for step in config.index_values(config.architecture.layers[name], chosen)
        ]
    return any(config.is_true(row.when, places) for places in choices)

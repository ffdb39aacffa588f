"""Tiny models of every mapping table, built by transformers from ``tiny/*.json``.

The format of the files is documented in ``test_every_table.py``. This module imports no framework
itself, so that tests without frameworks can use it.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import BODY, ModelSpecBuilder
from converter.architectures.schema import CROSS_ATTENTION, FRAMEWORKS, Architecture, ModelClass
from converter.errors import ConverterError, TableError
from converter.models.framework_support import role_unsupported_reasons, unsupported_reasons
from tests.factories import bundled_registry

DIRECTORY = Path(__file__).parent / "tiny"
LIBRARY = bundled_registry()
MODEL_TYPES = tuple(
    name for name in LIBRARY.names if not LIBRARY.is_composite(name) and not LIBRARY.is_part(name)
)
FULL = os.environ.get("FULL") == "1"
"""Run what plain ``pytest`` runs a sample of."""
NOISE = 0.1
MAIN_INPUTS = ("input_ids", "pixel_values", "input_values", "input_features")
LABELED = ("ForSequenceClassification", "ForTokenClassification")
"""Ends of the names of classes with any number of labels; it is 5 unless a file says otherwise."""

_KEYS = {
    "cannot_build",
    "config",
    "variants",
    "inputs",
    "tensorflow_inputs",
    "flax_inputs",
    "class_inputs",
    "class_config",
    "cannot_run",
    "keep",
    "own_files",
    "refused",
    "tolerance",
    "transformers_4",
    "transformers_5",
}

Case: TypeAlias = tuple[str, str, str]
"""Architecture, class or role, and variant."""


@dataclass(frozen=True)
class Tiny:
    """One file of ``tiny/``."""

    architecture: str
    config: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    framework_inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    class_inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    class_config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cannot_run: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    tolerance: float = 1e-5
    own_files: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cannot_build: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    transformers_4: str = ""
    transformers_5: Mapping[str, str] = field(default_factory=dict)

    @property
    def table(self) -> Architecture:
        """Return the mapping table."""
        return LIBRARY.architecture(self.architecture)

    def fields(self, variant: str = "") -> dict[str, Any]:
        """Return all fields of a variant; ``""`` is the configuration itself."""
        return {**self.config, **(self.variants[variant] if variant else {})}

    def transformers_config(self, variant: str = "", **changes: Any) -> Any:
        """Return the configuration of a variant as transformers' own, with changes."""
        import transformers

        fields = {**self.fields(variant), **changes}
        return transformers.AutoConfig.for_model(self.architecture, **fields)

    def can_run(self, what: str, variant: str) -> bool:
        """Return whether a role or a class of a framework can be called."""
        return self.cannot_run.keys().isdisjoint({what, f"{what}-{variant}"})

    def unsupported_by_transformers_5(self, variant: str, name: str = "") -> str | None:
        """Return why transformers 5 cannot hold a variant, or the class ``name``, if it cannot."""
        keys = [key for key in ("", variant, name) if key in self.transformers_5]
        return self.transformers_5[keys[0]] if keys else None

    def batch(
        self, framework: str, prefix: str = "", seed: int = 0, model: str = "", variant: str = ""
    ) -> dict[str, np.ndarray]:
        """Return the inputs of one forward pass as numpy arrays, each name with ``prefix``."""
        config = ModelConfig(self.table, self.fields(variant), self.architecture)
        expected = {
            **self.inputs,
            **self.class_inputs.get(model, {}),
            **self.framework_inputs.get(framework, {}),
        }
        if not any(name in expected for name in MAIN_INPUTS):
            below = self.config["vocab_size"]
            expected = {"input_ids": {"ids": [2, 9], "from": 5, "below": below}, **expected}
        if model.endswith("ForMultipleChoice"):
            expected = {name: spec and _with_choices(spec) for name, spec in expected.items()}
        return {
            prefix + name: _array(
                spec, config, np.random.default_rng([seed, zlib.crc32(name.encode())])
            )
            for name, spec in expected.items()
            if spec is not None
        }


def _with_choices(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return an input of shape [batch, …] as one of shape [batch, 3 choices, …]."""
    return {
        key: [value[0], 3, *value[1:]] if isinstance(value, list) else value
        for key, value in spec.items()
    }


def _array(spec: Mapping[str, Any], config: ModelConfig, stream: np.random.Generator) -> np.ndarray:
    if "ids" in spec:
        return stream.integers(spec.get("from", 0), spec["below"], spec["ids"])
    if "floats" in spec:
        return stream.standard_normal(spec["floats"]).astype(np.float32)
    if "range" in spec:
        start = spec.get("from", 0)
        row = np.arange(spec["range"][-1])
        row += config.attribute(start) if isinstance(start, str) else start
        return np.broadcast_to(row, spec["range"]).copy()
    return np.full(spec["fill"], spec["value"])


@cache
def tiny(architecture: str) -> Tiny:
    """Return the tiny model of an architecture."""
    data = json.loads((DIRECTORY / f"{architecture}.json").read_text())
    unknown = data.keys() - _KEYS
    assert not unknown, f"{architecture}.json: unknown {sorted(unknown)}"
    return Tiny(
        architecture,
        config=data["config"],
        variants=data.get("variants", {}),
        inputs=data.get("inputs", {}),
        framework_inputs={
            framework: data[f"{framework}_inputs"]
            for framework in ("tensorflow", "flax")
            if f"{framework}_inputs" in data
        },
        class_inputs=data.get("class_inputs", {}),
        class_config=data.get("class_config", {}),
        cannot_run=data.get("cannot_run", {}),
        keep=tuple(data.get("keep", ())),
        tolerance=data.get("tolerance", 1e-5),
        cannot_build=data.get("cannot_build", {}),
        refused=data.get("refused", {}),
        own_files=data.get("own_files", {}),
        transformers_4=data.get("transformers_4", ""),
        transformers_5=data.get("transformers_5", {}),
    )


@cache
def complete_model_types() -> tuple[str, ...]:
    """Return the architectures that have both a valid table and a tiny model.

    One that lacks either fails ``test_sample_configs.py`` and must not prevent the tests of others.
    """
    return tuple(
        name for name in MODEL_TYPES if (DIRECTORY / f"{name}.json").is_file() and _loads(name)
    )


def _loads(architecture: str) -> bool:
    LIBRARY.conventions  # noqa: B018  # raises the problems of all tables at once
    try:
        LIBRARY.architecture(architecture)
    except TableError:
        return False
    return True


@cache
def model_types_of_transformers_4() -> tuple[str, ...]:
    """Return the architectures that transformers 4.57 has classes for."""
    return tuple(name for name in complete_model_types() if not tiny(name).transformers_4)


@cache
def roles() -> tuple[Case, ...]:
    """Return architecture, role and variant of every composition that the variant changes."""
    return tuple(
        (architecture, role, variant)
        for architecture in complete_model_types()
        for role, played in tiny(architecture).table.roles.items()
        for variant in ("", *tiny(architecture).variants)
        if not variant or _changes(architecture, played.model, variant)
        if not _refused(architecture, role, variant)
    )


def _refused(architecture: str, role: str, variant: str) -> bool:
    """Return whether no framework supports this configuration in this role."""
    spec = tiny(architecture)
    config = ModelConfig(spec.table, spec.fields(variant), architecture)
    return role_unsupported_reasons(config, role).keys() >= {*FRAMEWORKS}


@cache
def single_models() -> tuple[Case, ...]:
    """Return architecture, model class and variant of every stand-alone conversion.

    Every class is tested with the configuration itself. With a variant, those with a role are
    tested if it changes their tensors, and others if it changes a part or head that the former
    lack; its changes of the rest are the same in all classes.
    """
    actual = []
    for architecture in complete_model_types():
        table = tiny(architecture).table
        leading = {role.model for role in table.roles.values()} or set(list(table.models)[:1])
        actual += [(architecture, model, "") for model in table.models]
        actual += [
            (architecture, model, variant)
            for variant in tiny(architecture).variants
            for model in table.models
            if _changes(architecture, model, variant, _groups(table, leading))
            if not _unsupported(architecture, model, variant)
        ]
    return tuple(actual)


def _unsupported(architecture: str, model: str, variant: str) -> bool:
    """Return whether the table states that no framework supports a class with a variant."""
    table = tiny(architecture).table
    config = ModelConfig(table, tiny(architecture).fields(variant), architecture)
    return unsupported_reasons(config, table.models[model]).keys() >= {*FRAMEWORKS}


def sample(cases: Iterable[Case]) -> list[Case]:
    """Return those of `roles` or `single_models` that plain ``pytest`` runs; with `FULL`, all.

    Each class and each role is in it, and each variant in the class or role that a hash chooses.
    """
    return [case for case in cases if FULL or not case[2] or case in _sampled_variants()]


@cache
def _sampled_variants() -> frozenset[Case]:
    candidates: dict[tuple[str, str], list[Case]] = {}
    for case in (*single_models(), *roles()):
        candidates.setdefault((case[0], case[2]), []).append(case)
    return frozenset(
        min(cases, key=lambda case: zlib.crc32("-".join(case).encode()))
        for cases in candidates.values()
    )


def _groups(table: Architecture, models: Iterable[str]) -> frozenset[str]:
    """Return the body, and the parts and heads of some classes."""
    actual = {BODY}
    for name in models:
        actual |= {*table.models[name].parts, *table.models[name].heads}
    return frozenset(actual)


def _changes(
    architecture: str, name: str, variant: str, statistics: frozenset[str] | None = None
) -> bool:
    """Return whether a variant changes the tensors or the frameworks of a model.

    Of a model that has more parts or heads than `seen`, only those are compared.
    """
    return _nature(architecture, name, "", statistics) != _nature(
        architecture, name, variant, statistics
    )


@cache
def _nature(architecture: str, name: str, variant: str, seen: frozenset[str] | None) -> Any:
    spec = tiny(architecture)
    model = spec.table.models[name]
    parts = (*model.parts, *({CROSS_ATTENTION} & set(spec.table.parts)))
    config = ModelConfig(spec.table, spec.fields(variant), architecture)
    try:
        initialized = ModelSpecBuilder(LIBRARY.conventions).model(
            config, parts, model.heads, base=model.base_model_prefix
        )
    except ConverterError as error:
        return str(error)  # reported by the test of this variant
    others = set() if seen is None else {*model.parts, *model.heads} - seen
    params = [
        (param.name, param.stored_as, param.tied_to, param.stored_in)
        for param in initialized.params
        if not others or param.part in others
    ]
    return params, None if others else set(unsupported_reasons(config, model))


def stored_ties(architecture: str, model: ModelClass, variant: str, submodel: str = "") -> set[str]:
    """Return the PyTorch names that files contain although transformers 4.57 ties them."""
    spec = tiny(architecture)
    config = ModelConfig(spec.table, spec.fields(variant), architecture)
    cross = {CROSS_ATTENTION} & {*spec.table.parts} if submodel == "decoder" else set()
    initialized = ModelSpecBuilder(LIBRARY.conventions).model(
        config, (*model.parts, *cross), model.heads, submodel, model.base_model_prefix
    )
    names = [
        param.stored_as[FRAMEWORKS[0]].name
        for param in initialized.params
        if FRAMEWORKS[0] in param.stored_in
    ]
    return {*names}


def source_fields(architecture: str, model: ModelClass, variant: str) -> dict[str, Any]:
    """Return the configuration of a stand-alone model, with the decoder's settings if it is one."""
    spec = tiny(architecture)
    decoder = spec.table.roles.get("decoder")
    fields = spec.fields(variant)
    if decoder and decoder.model == model.name:
        own = {key: value for key, value in decoder.config.items() if key != "add_cross_attention"}
        fields = {**own, **fields}
    labels = {"num_labels": 5} if model.name.endswith(LABELED) else {}
    return {**labels, **fields, **spec.class_config.get(model.name, {})}


def configuration(architecture: str, name: str, fields: Mapping[str, Any]) -> Any:
    """Build the configuration of a class, also of an architecture that AutoConfig does not know."""
    import transformers

    if architecture in transformers.CONFIG_MAPPING:
        return transformers.AutoConfig.for_model(architecture, **fields)
    return getattr(transformers, name).config_class(**fields)


def build(spec: Tiny, name: str, fields: Mapping[str, Any], seed: int = 0) -> Any:
    """Build a PyTorch model of class ``name`` in eval mode with noise on every parameter."""
    import torch
    import transformers

    torch.manual_seed(seed)
    model = getattr(transformers, name)(configuration(spec.architecture, name, fields)).eval()
    model.tie_weights()  # which BLIP's text decoder by itself does on loading alone
    add_noise(model, seed, spec.keep)
    return model


def add_noise(model: Any, seed: int, keep: Iterable[str] = ()) -> None:
    """Add noise to every parameter and running statistic whose name contains no text of ``keep``.

    The noise depends only on the name and the seed. Variances stay positive.
    """
    import torch

    tensors = dict(model.named_parameters())
    tensors |= {key: value for key, value in model.named_buffers() if ".running_" in key}
    with torch.no_grad():
        for key, value in tensors.items():
            if value.is_floating_point() and not any(text in key for text in keep):
                stream = np.random.default_rng([seed, zlib.crc32(key.encode())])
                initialized = torch.tensor(stream.standard_normal(tuple(value.shape)) * NOISE)
                value += (initialized.abs() if ".running_" in key else initialized).to(value.dtype)


def model_of(architecture: str, role: str) -> ModelClass:
    """Return the class of an architecture in a role."""
    table = tiny(architecture).table
    return table.models[table.roles[role].model]

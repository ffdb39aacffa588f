"""A checkpoint as a complete model, stand-alone or combined: its class, parameters, frameworks."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from converter.architectures.model_config import ModelConfig, apply_overrides, parse_settings
from converter.architectures.model_spec import ModelSpec, ParamSpec
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import (
    CROSS_ATTENTION,
    Architecture,
    Composite,
    Conventions,
    Role,
)
from converter.checkpoint.opening import Checkpoint
from converter.errors import ConfigError
from converter.models.framework_support import (
    composite_class,
    pair_unsupported_reasons,
    unsupported_reasons,
)
from converter.models.key_matching import KeyMatch, match_keys
from converter.models.source_model import (
    MatchedCheckpoint,
    SourceModel,
    class_names,
    detect_model_type,
    ignore_other_params,
    move_tied_values,
    required_params,
)
from converter.plan import SourceTensor

_log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Model(MatchedCheckpoint):
    """A checkpoint as the model that it holds."""

    name: str
    """The PyTorch class."""
    raw: Mapping[str, Any]
    """Its configuration, with the user's changes."""
    configs: Mapping[str, ModelConfig]
    """Submodel → configuration; the key of a stand-alone model is ``""``."""
    spec: ModelSpec
    """Every parameter of a model of this class and configuration."""
    required: Sequence[ParamSpec]
    """The parameters that the checkpoint must hold."""
    reasons: Mapping[str, str]
    """Optional part → why it is newly initialized if the checkpoint lacks it."""
    classes: Mapping[str, str]
    """Framework → class."""
    unsupported_reasons: Mapping[str, str]
    """Framework → why it does not support the model."""
    tables: Sequence[Architecture | Composite]
    composite: Composite | None = None
    """The table of a combined model."""
    notes: Sequence[str] = ()
    shared: bool = False
    """Whether its submodels share their weights."""

    @property
    def parameters(self) -> int:
        """The number of parameters, as ``num_parameters`` of transformers: tied ones count once.

        Buffers do not count, nor the parameters that the checkpoint lacks.
        """
        sizes = {}
        for name, stored in self.key_match.matched.items():
            param = self.spec.by_name.get(name)
            if param is None or not param.buffer:
                submodel, _, path = name.partition(".")
                twins = self.shared and submodel in self.submodels
                size = stored.tensor.spec.size
                sizes[(path, size) if twins else (stored.tensor.location, 0)] = size
        return sum(sizes.values())

    @property
    def submodels(self) -> tuple[str, ...]:
        """The submodels of a combined model; empty for a stand-alone one."""
        return tuple(submodel for submodel in self.configs if submodel)


InputModel: TypeAlias = SourceModel | Model
"""What the tensors of an output come from."""


def resolve_model(
    checkpoint: Checkpoint,
    registry: ArchitectureRegistry,
    settings: Sequence[str] = (),
    label: str = "source",
) -> Model:
    """Return the model that `checkpoint` holds.

    `settings` are configuration fields that the user changes, see `parse_settings`; `label` is the
    plan's name of the source. Raise `UnsupportedError` if no mapping table describes the model,
    `CheckpointError` if its architecture cannot be detected, `ConfigError` if its configuration is
    unusable, `UsageError` if `settings` are malformed.
    """
    named = [setting for setting in settings if setting.startswith("model_type=")]
    stated = parse_settings(named, ())[""].get("model_type")
    checkpoint = detect_model_type(checkpoint, registry, stated)
    is_composite = registry.is_composite(checkpoint.architecture)
    resolve = _combined_model if is_composite else _stand_alone_model
    model = resolve(checkpoint, registry, settings, label)
    _log.info("%s: is a %s", checkpoint.reference, model.name)
    return model


def _stand_alone_model(
    checkpoint: Checkpoint, registry: ArchitectureRegistry, settings: Sequence[str], label: str
) -> Model:
    raw = dict(checkpoint.config)
    nested = [key for key, value in raw.items() if isinstance(value, dict)]
    for target, changes in parse_settings(settings, nested).items():
        if not target:
            raw = apply_overrides(raw, changes)
        elif changes:
            inner = raw.get(target)
            raw[target] = apply_overrides(inner if isinstance(inner, dict) else {}, changes)
    source = SourceModel.from_checkpoint(label, checkpoint, registry, raw)
    model, architecture, stored = source.model, source.architecture, source.parts
    parts = dict.fromkeys((*model.parts, *({CROSS_ATTENTION} & stored)))
    spec = registry.specs.model(source.config, parts, model.heads, base=model.base_model_prefix)
    spec = replace(spec, missing_parts=model.missing_parts)
    source = move_tied_values(source, spec.by_name)
    ignored_heads = sorted(source.parts & set(architecture.heads) - set(model.heads))
    source = ignore_other_params(source, spec.by_name, model.name)
    match = source.key_match
    usually_absent = model.missing_parts.get(match.dialect, ())
    asked = {param.part for param in spec.params}
    absent = [p for p in model.parts if p in asked - source.parts and p not in usually_absent]
    return Model(
        label=label,
        checkpoint=checkpoint,
        key_match=match,
        name=model.name,
        raw={**raw, "architectures": [model.name]},
        configs={"": source.config},
        spec=spec,
        required=required_params(spec.params, match.matched, model.parts),
        reasons={part: f"the checkpoint has no {part}" for part in model.parts},
        classes=model.classes,
        unsupported_reasons=unsupported_reasons(source.config, model),
        tables=(architecture,),
        notes=[
            *(() if match.state else checkpoint.notes),
            *(f"has no {part}, which {model.name} has; it is newly initialized" for part in absent),
            *(f"its head {head} is ignored: no known class has it" for head in ignored_heads),
        ],
    )


def _combined_model(
    checkpoint: Checkpoint, registry: ArchitectureRegistry, settings: Sequence[str], label: str
) -> Model:
    composite = registry.composite(checkpoint.architecture)
    changes = parse_settings(settings, composite.submodels)
    raw = apply_overrides(checkpoint.config, changes[""])
    builder = registry.specs
    configs, specs, notes = {}, {}, list[str]()
    for submodel in composite.submodels:
        field, role = composite.configs[submodel], composite.roles[submodel]
        nested = raw.get(field)
        if not isinstance(nested, dict) or not isinstance(nested.get("model_type"), str):
            raise ConfigError(
                f"{checkpoint.config_path}: no configuration with a model_type for the {field}"
            )
        nested = apply_overrides(nested, changes[submodel])
        architecture = registry.architecture(
            registry.current_name(str(nested["model_type"])), checkpoint.config_path
        )
        added = _fields_of_role(nested, architecture.roles.get(role))
        if added:
            notes.append(f"{submodel}: its configuration lacks {' and '.join(added)}, which is set")
        raw[field] = nested = {**nested, "model_type": architecture.name, **added}
        config = ModelConfig(architecture, nested, f"{checkpoint.config_path}: {field}")
        configs[submodel] = config
        model, parts = composite_class(composite, submodel, config)
        specs[submodel] = builder.model(
            config, parts, model.heads, submodel, model.base_model_prefix, composite.prefixed
        )
    spec = builder.composite(composite, configs, specs, raw)
    matching = (registry.conventions, label, composite.submodels)
    match = match_keys(checkpoint, spec, *matching)
    classes, module = _classes(composite, checkpoint, match)
    if module:
        spec = spec.below(module, registry.conventions)
        if _last_module(match) == module:  # which is no foreign prefix then
            match = match_keys(checkpoint, spec, *matching)
    match = _find_foreign_tensors(match, spec, registry.conventions)
    shared = raw.get(composite.tied_by) is True
    copied = 0
    if shared:
        match, copied = copy_shared_weights(match, spec, composite.submodels)
    optional = {part for config in configs.values() for part in config.architecture.parts}
    optional -= {CROSS_ATTENTION}
    present = {param.part for param in spec.params if param.name in match.matched}
    absent = sorted({param.part for param in spec.params} & optional - present)
    notes += [f"has no {part}, which the model has; it is newly initialized" for part in absent]
    notes += [] if match.state else checkpoint.notes
    if copied:
        notes.append(
            f"by {composite.tied_by}, {copied} tensors of one submodel are those of the other, "
            "and are copied"
        )
    return Model(
        label=label,
        checkpoint=checkpoint,
        key_match=match,
        name=classes["pytorch"],
        raw={**raw, "architectures": [classes["pytorch"]]},
        configs=configs,
        spec=spec,
        required=required_params(spec.params, match.matched, optional),
        reasons={part: f"the checkpoint has no {part}" for part in optional},
        classes=classes,
        unsupported_reasons=pair_unsupported_reasons(composite, configs),
        tables=(*(config.architecture for config in configs.values()), composite),
        composite=composite,
        shared=shared,
        notes=notes,
    )


def _classes(
    composite: Composite, checkpoint: Checkpoint, match: KeyMatch
) -> tuple[Mapping[str, str], str]:
    """Return framework → class, and the module in which it has the composite, ``""`` if none.

    It is the class that the configuration states, or else one that fits the prefix of the names.
    """
    stated = class_names(checkpoint.config)
    for wrapper in composite.wrappers:
        is_stated = not stated.isdisjoint(wrapper.classes.values())
        if is_stated or (
            not stated & composite.class_names and _last_module(match) == wrapper.module
        ):
            return wrapper.classes, wrapper.module
    return composite.classes, ""


def _last_module(match: KeyMatch) -> str:
    """Return the last component of the prefix of the stored names, ``""`` if they have none."""
    return re.split(r"[./]", f".{match.prefix}")[-2]


def _fields_of_role(config: Mapping[str, Any], role: Role | None) -> dict[str, Any]:
    """Return the fields that a submodel must have in its role, where its configuration lacks them.

    Releases before 3.1 had no ``add_cross_attention``: later ones build no cross-attention then.
    """
    fields = role.config.items() if role else ()
    return {key: True for key, value in fields if value is True and config.get(key) is not True}


def _find_foreign_tensors(match: KeyMatch, spec: ModelSpec, conventions: Conventions) -> KeyMatch:
    """Return the match with the unknown tensors named that are outside a combined model."""
    separator = conventions.dialects[match.dialect].separator if match.dialect else "."
    modules = {name.partition(separator)[0] for name in spec.index(match.dialect)}
    names = {each.name: match.normalizer.normalize(each.name) for each in match.unmatched}
    foreign = [
        stored
        for stored, name in names.items()
        if match.matched and (name is None or name.partition(separator)[0] not in modules)
    ]
    return replace(match, foreign=tuple(foreign))


def copy_shared_weights(
    match: KeyMatch, spec: ModelSpec, submodels: tuple[str, str]
) -> tuple[KeyMatch, int]:
    """Return the match of a shared model with values for both submodels, and how many were copied.

    A tensor that the file has for one submodel only takes the values of its twin: the tensor of the
    same path and shape in the other submodel. Twins that are both stored are duplicates, whose
    equality is checked when the plan is executed.
    """
    matched = dict(match.matched)
    duplicates = dict(match.duplicates)
    for param, twin in _twins(spec, submodels):
        if twin.name not in match.matched:
            continue
        if param.name in match.matched:
            further: tuple[SourceTensor, ...] = (match.matched[twin.name],)
        else:
            matched[param.name] = match.matched[twin.name]
            further = tuple(stored for _, stored in duplicates.get(twin.name, ()))
        duplicates[param.name] = (
            *duplicates.get(param.name, ()),
            *((param.name, stored) for stored in further),
        )
    copied = len(matched) - len(match.matched)
    return replace(match, matched=matched, duplicates=duplicates), copied


def _twins(spec: ModelSpec, submodels: tuple[str, str]) -> Iterator[tuple[ParamSpec, ParamSpec]]:
    """Yield each tensor that has a twin in the other submodel, and the twin."""
    first, second = submodels
    for own, other in ((first, second), (second, first)):
        for param in spec.params:
            if param.tied_to or not param.name.startswith(f"{own}."):
                continue
            twin = spec.by_name.get(other + param.name[len(own) :])
            if twin and not twin.tied_to and twin.canonical.shape == param.canonical.shape:
                yield param, twin

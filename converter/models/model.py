"""A model understood, stand-alone or combined: its class, its tensors, its frameworks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import ModelSpec, ModelSpecBuilder, ParamSpec
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import CROSS_ATTENTION, Architecture, Composite
from converter.checkpoint.opening import Checkpoint
from converter.errors import ConfigError
from converter.models.detection import detect_model_type
from converter.models.framework_support import (
    pair_unsupported_reasons,
    role_unsupported_reasons,
    unsupported_reasons,
)
from converter.models.key_matching import KeyMatch, match_keys
from converter.models.source_model import MatchedCheckpoint, SourceModel, required
from converter.options import apply_overrides, parse_settings


def copy_shared_weights(report: KeyMatch, target: ModelSpec, submodels: tuple[str, str]) -> int:
    """Give each half of a shared model its values, wherever the file keeps them.

    A tensor that only one half has in the file takes the values of its twin: the tensor of the
    same path and shape in the other half. Of twins that are both there, executing the plan proves
    that they are equal.

    Returns:
        How many tensors took their values from the other half.

    """
    found = dict(report.matched)
    taken = 0
    for param, twin in _twins(target, submodels):
        if twin.name not in found:
            continue
        if param.name in found:
            report.copies[param.name].append((param.name, found[twin.name]))
            continue
        report.matched[param.name] = found[twin.name]
        report.copies[param.name] += [
            (param.name, copy) for _, copy in report.copies.get(twin.name, ())
        ]
        taken += 1
    report.missing = [param for param in report.missing if param.name not in report.matched]
    return taken


def _twins(target: ModelSpec, submodels: tuple[str, str]) -> Iterator[tuple[ParamSpec, ParamSpec]]:
    """Each tensor that has a twin, and the twin."""
    first, second = submodels
    for own, other in ((first, second), (second, first)):
        for param in target.params:
            if param.tied_to or not param.name.startswith(f"{own}."):
                continue
            twin = target.by_name.get(other + param.name[len(own) :])
            if twin and not twin.tied_to and twin.canonical.shape == param.canonical.shape:
                yield param, twin


_log = logging.getLogger(__name__)

_UNSHARED = "by {}, {} tensors of one half are those of the other; each half is given its own copy"


@dataclass
class Model(MatchedCheckpoint):
    """A checkpoint as the model that it is."""

    name: str
    """The PyTorch class."""
    raw: Mapping[str, Any]
    """Its configuration, with the user's changes."""
    configs: Mapping[str, ModelConfig]
    """Half → configuration; a stand-alone model is one half called ``""``."""
    target: ModelSpec
    """Every tensor that a model of this class and configuration has."""
    required: Sequence[ParamSpec]
    """The slots that the checkpoint must hold."""
    reasons: Mapping[str, str]
    """Part that it may lack → why it is drawn anew then."""
    classes: Mapping[str, str]
    """Framework → class."""
    unsupported_reasons: Mapping[str, str]
    """Framework → why it cannot hold the model."""
    tables: Sequence[Architecture | Composite]
    notes: Sequence[str] = ()
    shared: bool = False
    """Whether its halves share their weights."""

    def submodel_configs(self) -> Mapping[str, ModelConfig]:
        """Half of what is written → the configuration of its family."""
        return self.configs

    @property
    def submodels(self) -> tuple[str, ...]:
        """The halves of a combined model; none of a stand-alone one."""
        return tuple(submodel for submodel in self.configs if submodel)


def resolve_model(
    checkpoint: Checkpoint,
    registry: ArchitectureRegistry,
    settings: Sequence[str] = (),
    label: str = "source",
) -> Model:
    """What model `checkpoint` holds.

    Args:
        checkpoint: the opened source.
        registry: the mapping tables.
        settings: configuration fields that the user changes, see `parse_settings`.
        label: what the plan calls the source.

    Raises:
        UnsupportedError: if there is no table for it.
        CheckpointError: if nothing tells its family.
        ConfigError: if its configuration cannot be used.
        UsageError: if `settings` are not of their form.

    """
    checkpoint = detect_model_type(checkpoint, registry)
    whole = registry.is_composite(checkpoint.architecture)
    model = (_combined if whole else _stand_alone)(checkpoint, registry, settings, label)
    _log.info("%s: is a %s", checkpoint.reference, model.name)
    return model


def _stand_alone(
    checkpoint: Checkpoint, registry: ArchitectureRegistry, settings: Sequence[str], label: str
) -> Model:
    raw = apply_overrides(checkpoint.config, parse_settings(settings, ())[""])
    source = SourceModel.from_checkpoint(label, checkpoint, registry, raw)
    model, architecture = source.model, source.architecture
    parts = [*model.parts]
    if source.has(CROSS_ATTENTION) and CROSS_ATTENTION not in parts:
        parts.append(CROSS_ATTENTION)
    target = ModelSpecBuilder(registry.conventions).model(source.config, parts, model.heads)
    target = replace(target, missing_parts=model.missing_parts)
    source.move_tied_values(target.by_name)
    lost = sorted(source.parts_found & set(architecture.heads) - set(model.heads))
    source.drop(target.by_name, model.name)
    usual = model.missing_parts.get(source.report.dialect, ())
    absent = [part for part in model.parts if not source.has(part) and part not in usual]
    return Model(
        label=label,
        checkpoint=checkpoint,
        report=source.report,
        name=model.name,
        raw={**raw, "architectures": [model.name]},
        configs={"": source.config},
        target=target,
        required=required(target.params, source.report.matched, model.parts),
        reasons={part: f"the checkpoint has no {part}" for part in model.parts},
        classes=model.classes,
        unsupported_reasons=unsupported_reasons(source.config, model),
        tables=(architecture,),
        notes=[
            *(f"has no {part}, which {model.name} has; it is drawn anew" for part in absent),
            *(f"its head {head} is left out: no known class has it" for head in lost),
        ],
    )


def _combined(
    checkpoint: Checkpoint, registry: ArchitectureRegistry, settings: Sequence[str], label: str
) -> Model:
    composite = registry.composite(checkpoint.architecture)
    changes = parse_settings(settings, composite.submodels)
    raw = apply_overrides(checkpoint.config, changes[""])
    builder = ModelSpecBuilder(registry.conventions)
    configs, models = {}, {}
    for submodel in composite.submodels:
        nested = raw.get(submodel)
        if not isinstance(nested, dict) or not isinstance(nested.get("model_type"), str):
            raise ConfigError(
                f"{checkpoint.config_path}: no configuration with a model_type for the {submodel}"
            )
        raw[submodel] = nested = apply_overrides(nested, changes[submodel])
        config = ModelConfig(
            registry.architecture(nested["model_type"]),
            nested,
            f"{checkpoint.config_path}: {submodel}",
        )
        role_unsupported_reasons(config, submodel)  # refuses a family that cannot be this half
        model = config.architecture.models[config.architecture.roles[submodel].model]
        parts = dict.fromkeys((*model.parts, *([CROSS_ATTENTION] if submodel == "decoder" else [])))
        configs[submodel] = config
        models[submodel] = builder.model(config, parts, model.heads, prefix=submodel)
    target = builder.composite(composite, configs, models)
    report = match_keys(checkpoint, target, registry.conventions, label, composite.submodels)
    shared = raw.get(composite.tied_by) is True and copy_shared_weights(
        report, target, composite.submodels
    )
    poolers = {part for config in configs.values() for part in config.architecture.parts}
    poolers -= {CROSS_ATTENTION}
    found = {param.part for param in target.params if param.name in report.matched}
    lacking = sorted({param.part for param in target.params} & poolers - found)
    return Model(
        label=label,
        checkpoint=checkpoint,
        report=report,
        name=composite.classes["pytorch"],
        raw={**raw, "architectures": [composite.classes["pytorch"]]},
        configs=configs,
        target=target,
        required=required(target.params, report.matched, poolers),
        reasons={part: f"the checkpoint has no {part}" for part in poolers},
        classes=composite.classes,
        unsupported_reasons=pair_unsupported_reasons(composite, configs),
        tables=(*(config.architecture for config in configs.values()), composite),
        shared=raw.get(composite.tied_by) is True,
        notes=[
            *(f"has no {part}, which the model has; it is drawn anew" for part in lacking),
            *([_UNSHARED.format(composite.tied_by, shared)] if shared else []),
        ],
    )

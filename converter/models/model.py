"""A model understood, stand-alone or combined: its class, its tensors, its frameworks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import ModelSpec, ModelSpecBuilder, ParamSpec
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import CROSS_ATTENTION, Composite, Family
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


def copy_shared_weights(report: KeyMatch, target: ModelSpec, halves: tuple[str, str]) -> int:
    """Give each half of a shared model its values, wherever the file keeps them.

    A tensor that only one half has in the file takes the values of its twin: the tensor of the
    same path and shape in the other half. Of twins that are both there, executing the plan proves
    that they are equal.

    Returns:
        How many tensors took their values from the other half.
    """
    found = dict(report.matched)
    taken = 0
    for slot, twin in _twins(target, halves):
        if twin.name not in found:
            continue
        if slot.name in found:
            report.copies[slot.name].append((slot.name, found[twin.name]))
            continue
        report.matched[slot.name] = found[twin.name]
        report.copies[slot.name] += [
            (slot.name, copy) for _, copy in report.copies.get(twin.name, ())
        ]
        taken += 1
    report.missing = [slot for slot in report.missing if slot.name not in report.matched]
    return taken


def _twins(target: ModelSpec, halves: tuple[str, str]) -> Iterator[tuple[ParamSpec, ParamSpec]]:
    """Each tensor that has a twin, and the twin."""
    first, second = halves
    for own, other in ((first, second), (second, first)):
        for slot in target.params:
            if slot.tied_to or not slot.name.startswith(f"{own}."):
                continue
            twin = target.by_name.get(other + slot.name[len(own) :])
            if twin and not twin.tied_to and twin.canonical.shape == slot.canonical.shape:
                yield slot, twin


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
    tables: Sequence[Family | Composite]
    notes: Sequence[str] = ()
    shared: bool = False
    """Whether its halves share their weights."""

    def submodel_configs(self) -> Mapping[str, ModelConfig]:
        """Half of what is written → the configuration of its family."""
        return self.configs

    @property
    def halves(self) -> tuple[str, ...]:
        """The halves of a combined model; none of a stand-alone one."""
        return tuple(half for half in self.configs if half)


def resolve_model(
    checkpoint: Checkpoint,
    library: ArchitectureRegistry,
    settings: Sequence[str] = (),
    label: str = "source",
) -> Model:
    """What model `checkpoint` holds.

    Args:
        checkpoint: the opened source.
        library: the mapping tables.
        settings: configuration fields that the user changes, see `parse_settings`.
        label: what the plan calls the source.

    Raises:
        UnsupportedError: if there is no table for it.
        CheckpointError: if nothing tells its family.
        ConfigError: if its configuration cannot be used.
        UsageError: if `settings` are not of their form.
    """
    detect_model_type(checkpoint, library)
    whole = library.is_composite(checkpoint.family)
    model = (_combined if whole else _stand_alone)(checkpoint, library, settings, label)
    _log.info("%s: is a %s", checkpoint.reference, model.name)
    return model


def _stand_alone(
    checkpoint: Checkpoint, library: ArchitectureRegistry, settings: Sequence[str], label: str
) -> Model:
    raw = apply_overrides(checkpoint.config, parse_settings(settings, ())[""])
    source = SourceModel.from_checkpoint(label, checkpoint, library, raw)
    model, family = source.model, source.family
    parts = [*model.parts]
    if source.has(CROSS_ATTENTION) and CROSS_ATTENTION not in parts:
        parts.append(CROSS_ATTENTION)
    target = ModelSpecBuilder(library.vocabulary).model(source.config, parts, model.heads)
    target = replace(target, without=model.without)
    source.move_tied_values(target.by_name)
    lost = sorted(source.parts_found & set(family.heads) - set(model.heads))
    source.drop(target.by_name, model.name)
    usual = model.without.get(source.report.dialect, ())
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
        tables=(family,),
        notes=[
            *(f"has no {part}, which {model.name} has; it is drawn anew" for part in absent),
            *(f"its head {head} is left out: no known class has it" for head in lost),
        ],
    )


def _combined(
    checkpoint: Checkpoint, library: ArchitectureRegistry, settings: Sequence[str], label: str
) -> Model:
    composite = library.composite(checkpoint.family)
    changes = parse_settings(settings, composite.halves)
    raw = apply_overrides(checkpoint.config, changes[""])
    draftsman = ModelSpecBuilder(library.vocabulary)
    configs, models = {}, {}
    for half in composite.halves:
        nested = raw.get(half)
        if not isinstance(nested, dict) or not isinstance(nested.get("model_type"), str):
            raise ConfigError(
                f"{checkpoint.config_path}: holds no configuration of the {half} with a model_type"
            )
        raw[half] = nested = apply_overrides(nested, changes[half])
        config = ModelConfig(
            library.family(nested["model_type"]), nested, f"{checkpoint.config_path}: {half}"
        )
        role_unsupported_reasons(config, half)  # refuses a family that cannot be this half
        model = config.family.models[config.family.roles[half].model]
        parts = dict.fromkeys((*model.parts, *([CROSS_ATTENTION] if half == "decoder" else [])))
        configs[half] = config
        models[half] = draftsman.model(config, parts, model.heads, prefix=half)
    target = draftsman.composite(composite, configs, models)
    report = match_keys(checkpoint, target, library.vocabulary, label, composite.halves)
    shared = raw.get(composite.shared) is True and copy_shared_weights(
        report, target, composite.halves
    )
    poolers = {part for config in configs.values() for part in config.family.parts}
    poolers -= {CROSS_ATTENTION}
    found = {slot.part for slot in target.params if slot.name in report.matched}
    lacking = sorted({slot.part for slot in target.params} & poolers - found)
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
        tables=(*(config.family for config in configs.values()), composite),
        shared=raw.get(composite.shared) is True,
        notes=[
            *(f"has no {part}, which the model has; it is drawn anew" for part in lacking),
            *([_UNSHARED.format(composite.shared, shared)] if shared else []),
        ],
    )

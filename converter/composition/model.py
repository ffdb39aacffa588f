"""A model understood, stand-alone or combined: its class, its tensors, its frameworks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from converter.checkpoint import Checkpoint
from converter.composition.frameworks import composite_obstacles, obstacles, role_obstacles
from converter.composition.options import parse_settings, updated
from converter.composition.sharing import materialise
from converter.composition.source import Matched, Source, required
from converter.errors import ConfigError
from converter.identification import identify
from converter.matching import match
from converter.tables.blueprint import CROSS_ATTENTION, Blueprint, Draftsman, Slot
from converter.tables.config import FamilyConfig
from converter.tables.library import Library
from converter.tables.schema import Composite, Family

_log = logging.getLogger(__name__)

_UNSHARED = "by {}, {} tensors of one half are those of the other; each half is given its own copy"


@dataclass
class Model(Matched):
    """A checkpoint as the model that it is."""

    name: str
    """The PyTorch class."""
    raw: Mapping[str, Any]
    """Its configuration, with the user's changes."""
    configs: Mapping[str, FamilyConfig]
    """Half → configuration; a stand-alone model is one half called ``""``."""
    target: Blueprint
    """Every tensor that a model of this class and configuration has."""
    required: Sequence[Slot]
    """The slots that the checkpoint must hold."""
    reasons: Mapping[str, str]
    """Part that it may lack → why it is drawn anew then."""
    classes: Mapping[str, str]
    """Framework → class."""
    obstacles: Mapping[str, str]
    """Framework → why it cannot hold the model."""
    tables: Sequence[Family | Composite]
    notes: Sequence[str] = ()
    shared: bool = False
    """Whether its halves share their weights."""

    def configured(self) -> Mapping[str, FamilyConfig]:
        """Half of what is written → the configuration of its family."""
        return self.configs

    @property
    def halves(self) -> tuple[str, ...]:
        """The halves of a combined model; none of a stand-alone one."""
        return tuple(half for half in self.configs if half)


def understand(
    checkpoint: Checkpoint, library: Library, settings: Sequence[str] = (), label: str = "source"
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
    identify(checkpoint, library)
    whole = library.is_composite(checkpoint.family)
    model = (_combined if whole else _stand_alone)(checkpoint, library, settings, label)
    _log.info("%s: is a %s", checkpoint.reference, model.name)
    return model


def _stand_alone(
    checkpoint: Checkpoint, library: Library, settings: Sequence[str], label: str
) -> Model:
    raw = updated(checkpoint.config, parse_settings(settings, ())[""])
    source = Source.understand(label, checkpoint, library, raw)
    model, family = source.model, source.family
    parts = [*model.parts]
    if source.has(CROSS_ATTENTION) and CROSS_ATTENTION not in parts:
        parts.append(CROSS_ATTENTION)
    target = Draftsman(library.vocabulary).model(source.config, parts, model.heads)
    target = replace(target, without=model.without)
    source.hand_over(target.by_name)
    lost = sorted(source.parts_found & set(family.heads) - set(model.heads))
    source.leave_out(target.by_name, model.name)
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
        required=required(target.slots, source.report.matched, model.parts),
        reasons={part: f"the checkpoint has no {part}" for part in model.parts},
        classes=model.classes,
        obstacles=obstacles(source.config, model),
        tables=(family,),
        notes=[
            *(f"has no {part}, which {model.name} has; it is drawn anew" for part in absent),
            *(f"its head {head} is left out: no known class has it" for head in lost),
        ],
    )


def _combined(
    checkpoint: Checkpoint, library: Library, settings: Sequence[str], label: str
) -> Model:
    composite = library.composite(checkpoint.family)
    changes = parse_settings(settings, composite.halves)
    raw = updated(checkpoint.config, changes[""])
    draftsman = Draftsman(library.vocabulary)
    configs, models = {}, {}
    for half in composite.halves:
        nested = raw.get(half)
        if not isinstance(nested, dict) or not isinstance(nested.get("model_type"), str):
            raise ConfigError(
                f"{checkpoint.config_path}: holds no configuration of the {half} with a model_type"
            )
        raw[half] = nested = updated(nested, changes[half])
        config = FamilyConfig(
            library.family(nested["model_type"]), nested, f"{checkpoint.config_path}: {half}"
        )
        role_obstacles(config, half)  # refuses a family that cannot be this half
        model = config.family.models[config.family.roles[half].model]
        parts = dict.fromkeys((*model.parts, *([CROSS_ATTENTION] if half == "decoder" else [])))
        configs[half] = config
        models[half] = draftsman.model(config, parts, model.heads, prefix=half)
    target = draftsman.composite(composite, configs, models)
    report = match(checkpoint, target, library.vocabulary, label, composite.halves)
    shared = raw.get(composite.shared) is True and materialise(report, target, composite.halves)
    poolers = {part for config in configs.values() for part in config.family.parts}
    poolers -= {CROSS_ATTENTION}
    found = {slot.part for slot in target.slots if slot.name in report.matched}
    lacking = sorted({slot.part for slot in target.slots} & poolers - found)
    return Model(
        label=label,
        checkpoint=checkpoint,
        report=report,
        name=composite.classes["pytorch"],
        raw={**raw, "architectures": [composite.classes["pytorch"]]},
        configs=configs,
        target=target,
        required=required(target.slots, report.matched, poolers),
        reasons={part: f"the checkpoint has no {part}" for part in poolers},
        classes=composite.classes,
        obstacles=composite_obstacles(composite, configs),
        tables=(*(config.family for config in configs.values()), composite),
        shared=raw.get(composite.shared) is True,
        notes=[
            *(f"has no {part}, which the model has; it is drawn anew" for part in lacking),
            *([_UNSHARED.format(composite.shared, shared)] if shared else []),
        ],
    )

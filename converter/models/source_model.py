"""A stand-alone source understood: its family, its class, and which of its tensors is which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import BODY, ModelSpec, ModelSpecBuilder, ParamSpec
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import Architecture, ModelClass
from converter.checkpoint.opening import Checkpoint
from converter.initializers import COMPUTED
from converter.models.key_matching import KeyMatch, match_keys
from converter.plan import SourceTensor


@dataclass
class MatchedCheckpoint:
    """A checkpoint, and how its tensors relate to a blueprint."""

    label: str
    """What the plan calls it: ``encoder``, ``decoder`` or ``source``."""
    checkpoint: Checkpoint
    report: KeyMatch

    def submodel_configs(self) -> Mapping[str, ModelConfig]:
        """Half of what is written → the configuration of its family."""
        return {}


@dataclass
class SourceModel(MatchedCheckpoint):
    """A stand-alone checkpoint of one family, matched against all that the family may have."""

    config: ModelConfig
    known: ModelSpec
    """Every tensor that the family may have with this configuration."""

    @classmethod
    def from_checkpoint(
        cls,
        label: str,
        checkpoint: Checkpoint,
        registry: ArchitectureRegistry,
        raw: Mapping[str, Any],
    ) -> SourceModel:
        """Match `checkpoint` against the table of its family, `raw` being its configuration.

        Raises:
            UnsupportedError: if there is no table for its family.
            ConfigError: if the configuration cannot be used.

        """
        architecture = registry.architecture(checkpoint.architecture)
        config = ModelConfig(architecture, raw, str(checkpoint.config_path))
        known = ModelSpecBuilder(registry.conventions).model(config)
        report = match_keys(checkpoint, known, registry.conventions, label)
        return cls(label, checkpoint, report, config, known)

    def submodel_configs(self) -> Mapping[str, ModelConfig]:
        """Half of what is written → the configuration of its family."""
        return {self.label: self.config}

    @property
    def architecture(self) -> Architecture:
        """The table."""
        return self.config.architecture

    def has(self, part: str) -> bool:
        """Whether any tensor of a part or head was found."""
        return part in self.parts_found

    @property
    def parts_found(self) -> set[str]:
        """The parts and heads that any tensor was found of, the body left aside."""
        found = self.report.matched
        return {param.part for param in self.known.params if param.name in found} - {BODY}

    def move_tied_values(self, target: Mapping[str, ParamSpec]) -> None:
        """Let tensors that a model lacks leave their values to those that are tied to them.

        A decoder taken out of a sequence-to-sequence model has its own embeddings, whose values
        lie in the embeddings that the whole model shares.

        Args:
            target: the model's slots by the names of this source.

        """
        report, left = self.report, set()
        for name, param in target.items():
            if param.tied_to or name in report.matched or name not in self.known.by_name:
                continue
            root = self.known.resolve(self.known.by_name[name]).name
            if root in report.matched and root not in target:
                report.matched[name] = report.matched[root]
                report.copies[name] = [(name, copy) for _, copy in report.copies.get(root, ())]
                left.add(root)
        for root in left:
            del report.matched[root]
            report.copies.pop(root, None)

    def drop(
        self, target: Mapping[str, ParamSpec], model: str, heads_of_any_shape: bool = False
    ) -> None:
        """Give up what was found and is not in `target`, which is a `model`.

        Args:
            target: the model's slots by the names of this source.
            model: the name of its class.
            heads_of_any_shape: whether heads that the model lacks may have wrong shapes.

        """
        report = self.report
        for name in [name for name in report.matched if name not in target]:
            report.drop([name], _not_part(model, self.known.by_name[name].part))
        for odd in list(report.mismatched):
            spec, param, _ = odd
            is_head = param.name not in target and param.part in self.architecture.heads
            if heads_of_any_shape and is_head:
                report.mismatched.remove(odd)
                report.dropped[spec.name] = _not_part(model, param.part)

    @property
    def model(self) -> ModelClass:
        """The class that the checkpoint is of.

        That which the configuration names, if it has every head that was found; else the class
        that has, with as few other heads as can be, and most of the parts that were found.
        """
        named = self.checkpoint.config.get("architectures")
        names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
        heads = self.parts_found & set(self.architecture.heads)
        parts = self.parts_found - heads

        def surplus(model: ModelClass) -> tuple[int, int, int]:
            return len({*model.heads} - heads), len(parts - {*model.parts}), len(model.parts)

        models = sorted(self.architecture.models.values(), key=surplus)
        stated = [
            model
            for model in models
            if model.name in names or not set(names).isdisjoint(model.classes.values())
        ]
        fitting = [model for model in (*stated, *models) if heads <= set(model.heads)]
        return (*fitting, *stated, *models)[0]


def _not_part(model: str, part: str) -> str:
    """Why a tensor of `part` is left out of a `model`."""
    return f"not part of {model}" + (f", which has no {part}" if part else "")


def required(
    target: Iterable[ParamSpec], found: Mapping[str, SourceTensor], may_lack: Iterable[str]
) -> list[ParamSpec]:
    """The slots of `target` that must have been found.

    A part named in `may_lack` may be absent as a whole, never in pieces; what is computed may be
    absent anyway.
    """
    params = [param for param in target if not param.tied_to and param.rule not in COMPUTED]
    present = {param.part for param in params if param.name in found}
    absent = set(may_lack) - present
    return [param for param in params if param.part not in absent]

"""A stand-alone checkpoint as a model: detection of its architecture, its class, parts and heads.

Configurations have a ``model_type`` since 2019. Older ones, and those of original releases, are
recognized by the class that they state, or by their fields and the names of their tensors, which
are in the mapping tables under ``[detection]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import BODY, ModelSpec, ParamSpec
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import (
    Architecture,
    Conventions,
    Detection,
    DetectionRule,
    Dialect,
    ModelClass,
)
from converter.checkpoint.opening import Checkpoint
from converter.display import Displayed
from converter.errors import CheckpointError, ConfigError, Problem
from converter.initializers import COMPUTED
from converter.models.key_matching import MAX_PREFIX, KeyMatch, match_keys
from converter.plan import SourceTensor

UNKNOWN_HEAD = (
    "a head of another task, or a module of the training: it is next to the base model, and in no "
    "mapping table"
)


@dataclass(frozen=True, repr=False)
class MatchedCheckpoint(Displayed):
    """A checkpoint, and how its tensors relate to the parameters of a model."""

    label: str
    """The plan's name of it: ``encoder``, ``decoder`` or ``source``."""
    checkpoint: Checkpoint
    key_match: KeyMatch


@dataclass(frozen=True, repr=False)
class SourceModel(MatchedCheckpoint):
    """A stand-alone checkpoint, matched to all parameters that its architecture may have."""

    config: ModelConfig
    spec: ModelSpec
    """Every parameter that the architecture may have with this configuration."""
    layers: tuple[int, ...] | None = None
    """The numbers that its layers have in the checkpoint, if some were selected."""

    @classmethod
    def from_checkpoint(
        cls,
        label: str,
        checkpoint: Checkpoint,
        registry: ArchitectureRegistry,
        raw: Mapping[str, Any],
    ) -> SourceModel:
        """Match `checkpoint` to the mapping table of its architecture, `raw` being its config.

        Raise `UnsupportedError` if no table describes its architecture.
        """
        architecture = registry.architecture(checkpoint.architecture, checkpoint.config_path)
        config = ModelConfig(architecture, raw, str(checkpoint.config_path))
        models = architecture.named_models(class_names(checkpoint.config))
        sources = []
        for heads in architecture.head_sets(models):
            spec = registry.specs.model(config, heads=heads)
            key_match = match_keys(checkpoint, spec, registry.conventions, label)
            sources.append(cls(label, checkpoint, key_match, config, spec))
            if not key_match.mismatched:
                break
        source = min(sources, key=lambda source: len(source.key_match.mismatched))
        return find_foreign_tensors(source, registry.conventions)

    @property
    def configs(self) -> Mapping[str, ModelConfig]:
        """The one submodel of the output that this is → its configuration."""
        return {self.label: self.config}

    @property
    def architecture(self) -> Architecture:
        """The mapping table."""
        return self.config.architecture

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads in `spec`."""
        parts = {param.part for param in self.spec.params}
        return tuple(head for head in self.architecture.heads if head in parts)

    @property
    def parts(self) -> set[str]:
        """The parts and heads with at least one tensor in the checkpoint, without the body."""
        names = {*self.key_match.matched}
        for entries in self.key_match.duplicates.values():
            names.update(name for name, _ in entries)  # a head whose only tensor is tied
        return {param.part for param in self.spec.params if param.name in names} - {BODY}

    @property
    def model(self) -> ModelClass:
        """The class of the checkpoint.

        The class that the configuration states, if it has every head in the checkpoint; or else the
        class that has them, with the name of its base model in the checkpoint, the fewest other
        heads and the most of the other parts.
        """
        heads = self.parts & set(self.architecture.heads)
        parts = self.parts - heads
        stored = [each.tensor.spec.name for each in self.key_match.matched.values()]
        modules = {name.replace("/", ".").rpartition(".")[0] for name in stored}

        def surplus(model: ModelClass) -> tuple[bool, int, int, int]:
            base = model.base_model_prefix.get(self.key_match.dialect)
            other = bool(base) and not any(f"{base}." in module for module in modules)
            return other, len({*model.heads} - heads), len(parts - {*model.parts}), len(model.parts)

        models = sorted(self.architecture.models.values(), key=surplus)
        stated = class_names(self.checkpoint.config)
        named = sorted(self.architecture.named_models(stated), key=surplus)
        fitting = [model for model in (*named, *models) if heads <= set(model.heads)]
        return (*fitting, *named, *models)[0]


def move_tied_values(source: SourceModel, target: Mapping[str, ParamSpec]) -> SourceModel:
    """Return `source` with values of parameters that `target` lacks moved to those tied to them.

    The decoder of a sequence-to-sequence model has its own embeddings, whose values are stored as
    the embeddings that encoder and decoder share. `target` has the parameters of the model to be
    written, by their names in the source.
    """
    matched = dict(source.key_match.matched)
    duplicates = dict(source.key_match.duplicates)
    moved = set()
    for name, param in target.items():
        if param.tied_to or name in matched or name not in source.spec.by_name:
            continue
        root = source.spec.resolve(source.spec.by_name[name]).name
        if root in matched and root not in target:
            matched[name] = matched[root]
            duplicates[name] = tuple((name, stored) for _, stored in duplicates.get(root, ()))
            moved.add(root)
    for root in moved:
        del matched[root]
        duplicates.pop(root, None)
    return replace(
        source, key_match=replace(source.key_match, matched=matched, duplicates=duplicates)
    )


def ignore_other_params(
    source: SourceModel, target: Mapping[str, ParamSpec], model: str, any_head_shape: bool = False
) -> SourceModel:
    """Return `source` with every tensor ignored that is not in `target`.

    `target` has the parameters of the class `model`, by their names in the source. If
    `any_head_shape`, heads that the class lacks may have unexpected shapes.
    """

    def reason(param: ParamSpec) -> str:
        return f"not part of {model}" + (f", which has no {param.part}" if param.part else "")

    def is_surplus_head(param: ParamSpec) -> bool:
        return param.name not in target and param.part in source.architecture.heads

    match = source.key_match
    for name in [name for name in match.matched if name not in target]:
        match = match.ignore([name], reason(source.spec.by_name[name]))
    if any_head_shape:
        heads = {spec.name: param for spec, param, _ in match.mismatched if is_surplus_head(param)}
        match = replace(
            match,
            mismatched=tuple(entry for entry in match.mismatched if not is_surplus_head(entry[1])),
            ignored={**match.ignored, **{name: reason(param) for name, param in heads.items()}},
        )
    return replace(source, key_match=match)


def find_foreign_tensors(source: SourceModel, conventions: Conventions) -> SourceModel:
    """Return `source` with the unknown tensors named that cannot belong to its base model.

    A tensor is foreign if the names of the base model share a prefix that its name does not have
    (``classifier.weight`` next to ``bert.…``), no head of the mapping table has its module, and its
    name does not end like that of a tensor of the base model, which would be a second model.
    """
    match = source.key_match
    dialect = conventions.dialects[match.dialect or "pytorch"]
    separator = dialect.separator
    prefix = _base_model_prefix(source, dialect)
    if not prefix:
        return source
    index = source.spec.index(match.dialect)
    body = {name for name, param in index.items() if param.part == BODY}
    heads = tuple(
        root + separator
        for head in source.architecture.heads
        for root in _head_modules(
            [name for name, param in index.items() if param.part == head], separator
        )
    )

    def is_foreign(stored: str) -> bool:
        path, name = match.normalizer.normalize_path(stored), match.normalizer.normalize(stored)
        modules = path.split(separator)
        return not (
            path.startswith(prefix)
            or (name is not None and f"{name}{separator}".startswith(heads))
            or any(separator.join(modules[i:]) in body for i in range(1, len(modules)))
        )

    foreign = tuple(spec.name for spec in match.unmatched if is_foreign(spec.name))
    return replace(source, key_match=replace(match, foreign=foreign))


def _head_modules(names: Sequence[str], separator: str) -> set[str]:
    """Return the module that holds all tensors of a head, or else the first module of each."""
    modules = [name.split(separator)[:-1] or [name] for name in names]
    levels = takewhile(lambda parts: len({*parts}) == 1, zip(*modules, strict=False))
    shared = [parts[0] for parts in levels]
    return {separator.join(shared)} if shared else {module[0] for module in modules}


def ignore_foreign_tensors(source: SourceModel) -> SourceModel:
    """Return `source` with its foreign tensors ignored; other unknown ones stay unmatched."""
    match = source.key_match
    foreign = dict.fromkeys(match.foreign, UNKNOWN_HEAD)
    unmatched = tuple(spec for spec in match.unmatched if spec.name not in foreign)
    match = replace(match, unmatched=unmatched, foreign=(), ignored={**match.ignored, **foreign})
    return replace(source, key_match=match)


def _base_model_prefix(source: SourceModel, dialect: Dialect) -> str:
    """Return the prefix of the base model's names in the file, ``""`` if they have none."""
    match, params = source.key_match, source.spec.by_name
    names = [
        match.normalizer.normalize_path(stored.tensor.spec.name)
        for name, stored in match.matched.items()
        if name in params and params[name].part == BODY
    ]
    for base in source.architecture.base_model_prefixes(dialect):
        longer = f"{match.normalizer.prefix}{base}{dialect.separator}"
        if 2 * sum(name.startswith(longer) for name in names) > len(names):
            return longer
    return match.normalizer.prefix


def required_params(
    params: Iterable[ParamSpec], matched: Mapping[str, SourceTensor], optional: Iterable[str]
) -> list[ParamSpec]:
    """Return the parameters that a checkpoint must hold.

    An `optional` part may be missing completely, but not partly; computed values may be missing.
    """
    own = [param for param in params if not param.tied_to and param.rule not in COMPUTED]
    missing = set(optional) - {param.part for param in own if param.name in matched}
    return [param for param in own if param.part not in missing]


def as_part_of(
    checkpoint: Checkpoint, composite: str, registry: ArchitectureRegistry
) -> Checkpoint | None:
    """Return the checkpoint as what its architecture becomes in a composite, if it becomes one."""
    model_type = str(checkpoint.config.get("model_type"))
    if model_type not in registry or registry.is_composite(model_type):
        return None
    part = registry.architecture(model_type).becomes.get(composite)
    return checkpoint.with_config({**checkpoint.config, "model_type": part}) if part else None


def detect_model_type(
    checkpoint: Checkpoint, registry: ArchitectureRegistry, stated: object = None
) -> Checkpoint:
    """Return `checkpoint` with a ``model_type`` and the field names of its mapping table.

    The ``model_type`` is `stated` by the user, or by the config; otherwise it is that of the class
    that the config states under ``architectures``, or that of the one table whose rules fit. An
    old spelling is replaced. A checkpoint that no table describes stays unchanged. Raise
    `CheckpointError` if several tables fit.
    """
    config = checkpoint.config
    name = config.get("model_type") if stated is None else stated
    if name is None and (classes := class_names(config)):
        named = registry.names_by_class(classes)
        name = named[0] if len(named) == 1 else None
    if name is not None:
        if isinstance(name, str):
            name = registry.current_name(name)
        return checkpoint.with_config({**config, "model_type": name})
    fitting = _fitting(checkpoint, registry)
    if len(fitting) > 1:
        raise CheckpointError(
            f"{checkpoint.config_path}: states no model_type, and fits several architectures",
            [Problem(f"may be {each.name}: {each.title}") for each, _ in fitting],
            remedy=f'Add it, for example "model_type": "{fitting[0][0].name}", or give it: '
            f"--set model_type={fitting[0][0].name}.",
        )
    for architecture, rule in fitting:
        return checkpoint.with_config(_modern_config(config, architecture, rule))
    return checkpoint


def class_names(config: Mapping[str, Any]) -> set[str]:
    """Return the classes that a configuration states."""
    stated = config.get("architectures")
    return {name for name in stated if isinstance(name, str)} if isinstance(stated, list) else set()


def _fitting(
    checkpoint: Checkpoint, registry: ArchitectureRegistry
) -> list[tuple[Architecture, DetectionRule]]:
    """Return the architectures with a rule that fits, by the most specific name of a tensor.

    ``roberta.encoder.layer.0…`` is more specific than ``encoder.layer.0…``.
    """
    separators = {dialect.separator for dialect in registry.conventions.dialects.values()}
    names = {n for stored in checkpoint.tensors for n in _without_prefixes(stored, separators)}
    fitting: list[tuple[int, Architecture, DetectionRule]] = []
    for architecture in registry.with_detection():
        rules = architecture.detection
        config = ModelConfig(architecture, checkpoint.config, str(checkpoint.config_path))
        for rule in (rules, *rules.alternatives) if rules else ():
            for pattern in rule.tensors if _fits(rule, config) else ():
                if any(pattern.match(name) is not None for name in names):
                    fitting.append((len(re.split("[./]", pattern.text)), architecture, rule))
    most = max((specific for specific, _, _ in fitting), default=0)
    found = {each.name: (each, rule) for specific, each, rule in fitting if specific == most}
    return list(found.values())


def _fits(rule: DetectionRule, config: ModelConfig) -> bool:
    """Return whether a configuration fits a rule; one with unusable fields does not."""
    try:
        return (
            bool(rule.fields)
            and rule.fields <= config.raw.keys()
            and rule.absent_fields.isdisjoint(config.raw)
            and config.is_true(rule.when)
        )
    except ConfigError:
        return False


def select_submodel(
    checkpoint: Checkpoint, registry: ArchitectureRegistry, role: str
) -> Checkpoint:
    """Return `checkpoint` with the config of the nested model for `role`, such as CLIP's vision.

    A checkpoint whose own architecture has the role, or without such a part, stays unchanged.
    """
    model_type = checkpoint.config.get("model_type")
    if not isinstance(model_type, str):
        return checkpoint
    own = model_type in registry.names and not registry.is_composite(model_type)
    if own and role in registry.architecture(model_type).roles:
        return checkpoint
    for architecture in registry.with_detection():
        nested_in = architecture.detection.nested_in if architecture.detection else {}
        field = nested_in.get(model_type)
        nested = checkpoint.config.get(field) if field else checkpoint.config
        if field is not None and role in architecture.roles and isinstance(nested, dict):
            return checkpoint.with_config({**nested, "model_type": architecture.name})
    return checkpoint


def _without_prefixes(name: str, separators: Iterable[str]) -> Iterator[str]:
    """Yield a stored name, and what follows each prefix that it may have."""
    yield name
    for separator in separators:
        start = 0
        for _ in range(MAX_PREFIX):
            start = name.find(separator, start) + 1
            if not start:
                break
            yield name[start:]


def _modern_config(
    config: Mapping[str, Any], architecture: Architecture, rule: DetectionRule
) -> dict[str, Any]:
    """Return the configuration as transformers writes it."""
    release = rule if isinstance(rule, Detection) else Detection()
    names = release.rename_fields
    renamed = {names[key]: value for key, value in config.items() if key in names}
    kept = {key: value for key, value in config.items() if key not in names}
    model = {"architectures": [release.model]} if release.model else {}
    return {"model_type": architecture.name, **model, **renamed, **kept}

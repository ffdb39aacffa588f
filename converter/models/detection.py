"""Detection of the architecture of a checkpoint whose configuration has no ``model_type``.

Configurations have it since 2019. Older ones, and those of original releases, are recognized by
their fields and by the names of their tensors, which are in the mapping tables under
``[detection]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import Architecture, Detection
from converter.checkpoint.opening import Checkpoint
from converter.errors import CheckpointError, Problem


def detect_model_type(checkpoint: Checkpoint, registry: ArchitectureRegistry) -> Checkpoint:
    """Return `checkpoint` with a ``model_type`` and the field names of its mapping table.

    A config that has a ``model_type``, or that no table describes, stays unchanged.

    Raises:
        CheckpointError: if several tables fit.

    """
    if "model_type" in checkpoint.config:
        return checkpoint
    prefixes = {p for dialect in registry.conventions.dialects.values() for p in dialect.prefixes}
    names = {name.removeprefix(prefix) for name in checkpoint.tensors for prefix in ("", *prefixes)}
    fitting = [
        (architecture, architecture.detection)
        for architecture in registry.with_detection()
        if architecture.detection and _fits(architecture.detection, checkpoint.config, names)
    ]
    if len(fitting) > 1:
        raise CheckpointError(
            f"{checkpoint.config_path}: states no model_type, and fits several architectures",
            [
                Problem(f"may be {architecture.name}: {architecture.title}")
                for architecture, _ in fitting
            ],
            remedy=f'Add it, for example "model_type": "{fitting[0][0].name}".',
        )
    for architecture, rules in fitting:
        return checkpoint.with_config(_modern_config(checkpoint.config, architecture, rules))
    return checkpoint


def select_submodel(
    checkpoint: Checkpoint, registry: ArchitectureRegistry, role: str
) -> Checkpoint:
    """Return `checkpoint` with the config of the nested model for `role`, such as CLIP's vision.

    A checkpoint that is itself of a supported architecture, or has no such part, stays unchanged.
    """
    model_type = checkpoint.config.get("model_type")
    if not isinstance(model_type, str) or model_type in registry.names:
        return checkpoint
    for architecture in registry.with_detection():
        nested_in = architecture.detection.nested_in if architecture.detection else {}
        nested = checkpoint.config.get(nested_in.get(model_type, ""))
        if role in architecture.roles and isinstance(nested, dict):
            return checkpoint.with_config({**nested, "model_type": architecture.name})
    return checkpoint


def _fits(rules: Detection, config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return (
        bool(rules.fields)
        and rules.fields <= config.keys()
        and rules.absent_fields.isdisjoint(config)
        and any(pattern.match(name) is not None for name in names for pattern in rules.tensors)
    )


def _modern_config(
    config: Mapping[str, Any], architecture: Architecture, rules: Detection
) -> dict[str, Any]:
    """Return the configuration as transformers writes it."""
    renamed = {
        rules.rename_fields[key]: value
        for key, value in config.items()
        if key in rules.rename_fields
    }
    kept = {key: value for key, value in config.items() if key not in rules.rename_fields}
    model = {"architectures": [rules.model]} if rules.model else {}
    return {"model_type": architecture.name, **model, **renamed, **kept}

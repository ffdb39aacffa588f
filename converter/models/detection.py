"""Which family a checkpoint is of whose configuration does not say so.

Configurations state a ``model_type`` since 2019. Older ones, and those of the original releases,
are told by the fields they have and by the names of the tensors beside them; both stand in the
families' tables, under ``[detection]``.
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
        CheckpointError: if several tables know it.

    """
    if "model_type" in checkpoint.config:
        return checkpoint
    wrappers = {w for dialect in registry.conventions.dialects.values() for w in dialect.prefixes}
    names = {
        name.removeprefix(wrapper) for name in checkpoint.tensors for wrapper in ("", *wrappers)
    }
    found = [
        (architecture, architecture.detection)
        for architecture in registry.with_detection()
        if architecture.detection and _fits(architecture.detection, checkpoint.config, names)
    ]
    if len(found) > 1:
        raise CheckpointError(
            f"{checkpoint.config_path}: states no model_type, and fits several families",
            [
                Problem(f"may be {architecture.name}: {architecture.title}")
                for architecture, _ in found
            ],
            remedy=f'Add it, for example "model_type": "{found[0][0].name}".',
        )
    for architecture, rules in found:
        return checkpoint.with_config(_translated(checkpoint.config, architecture, rules))
    return checkpoint


def select_submodel(
    checkpoint: Checkpoint, registry: ArchitectureRegistry, role: str
) -> Checkpoint:
    """Return `checkpoint` with the config of the nested model for `role`, such as CLIP's vision.

    A checkpoint that is itself of a supported architecture, or has no such part, stays unchanged.
    """
    whole = checkpoint.config.get("model_type")
    if not isinstance(whole, str) or whole in registry.names:
        return checkpoint
    for architecture in registry.with_detection():
        nested_in = architecture.detection.nested_in if architecture.detection else {}
        own = checkpoint.config.get(nested_in[whole]) if whole in nested_in else None
        if role in architecture.roles and isinstance(own, dict):
            return checkpoint.with_config({**own, "model_type": architecture.name})
    return checkpoint


def _fits(rules: Detection, config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return (
        bool(rules.fields)
        and rules.fields <= config.keys()
        and rules.absent_fields.isdisjoint(config)
        and any(template.match(name) is not None for name in names for template in rules.tensors)
    )


def _translated(
    config: Mapping[str, Any], architecture: Architecture, rules: Detection
) -> dict[str, Any]:
    """The configuration as transformers writes it."""
    renamed = {
        rules.rename_fields[key]: value
        for key, value in config.items()
        if key in rules.rename_fields
    }
    kept = {key: value for key, value in config.items() if key not in rules.rename_fields}
    stated = {"architectures": [rules.model]} if rules.model else {}
    return {"model_type": architecture.name, **stated, **renamed, **kept}

"""The small files of an output that say what it is: configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converter.architectures.schema import Composite, Role
from converter.planning.generation_config import TOKEN_FIELDS, is_setting
from converter.safe_json import to_json


def composed_config(
    composite: Composite,
    submodels: Mapping[str, Mapping[str, Any]],
    tokens: Mapping[str, int],
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """The ``config.json`` of a composite, as the frameworks' classes read it.

    Args:
        composite: its table.
        submodels: half → its whole configuration, in its role.
        tokens: role → id, see `converter.planning.special_tokens`.
        changes: fields that the user set, but for settings of generation.

    """
    decoder = submodels["decoder"]
    return {
        "architectures": [composite.classes["pytorch"]],
        "dtype": decoder.get("dtype", decoder.get("torch_dtype")),
        "is_encoder_decoder": True,
        "model_type": composite.name,
        **_ids(tokens),
        **{submodel: dict(config) for submodel, config in submodels.items()},
        **changes,
    }


def with_tokens(raw: Mapping[str, Any], tokens: Mapping[str, int]) -> dict[str, Any]:
    """A decoder's configuration that generates with the same tokens as the composite.

    Its ``pad_token_id`` stays what it is: RoBERTa and its kin count positions from it.
    """
    ids = {field: number for field, number in _ids(tokens).items() if field != TOKEN_FIELDS["pad"]}
    return {**raw, **ids}


def _ids(tokens: Mapping[str, int]) -> dict[str, int]:
    return {field: tokens[role] for role, field in TOKEN_FIELDS.items() if role in tokens}


def with_role_fields(raw: Mapping[str, Any], role: Role, dtype: str) -> dict[str, Any]:
    """A source's configuration as half of a composite."""
    return with_dtype({**raw, **role.config, "architectures": [role.model]}, dtype)


def with_dtype(raw: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A configuration that states `dtype`, in the field it used before (renamed in 2025)."""
    changed = dict(raw)
    if "torch_dtype" in changed:
        changed["torch_dtype"] = dtype
    if "dtype" in changed or "torch_dtype" not in changed:
        changed["dtype"] = dtype
    return changed


def without_settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the settings of generation, which ``generation_config.json`` holds,
    so that none is said twice.
    """
    return {key: value for key, value in raw.items() if not is_setting(key)}


def generation_config(tokens: Mapping[str, int], settings: Mapping[str, Any]) -> bytes:
    """The ``generation_config.json`` with which ``generate()`` starts, ends and pads.

    Args:
        tokens: role → id, see `converter.planning.special_tokens`.
        settings: the others, see `converter.planning.generation_config`. Without any, transformers
            is told that all is as the model's configuration has it, as it writes itself.

    """
    alone = {} if settings else {"_from_model_config": True}
    return to_json({**alone, **settings, **_ids(tokens)})

"""The small files of an output that say what it is: configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converter.composition.tokens import FIELDS
from converter.jsonfile import to_json
from converter.tables.schema import Composite, Role

GENERATION_CONFIG = "generation_config.json"


def composed_config(
    composite: Composite,
    halves: Mapping[str, Mapping[str, Any]],
    tokens: Mapping[str, int],
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """The ``config.json`` of a composite, as the frameworks' classes read it.

    Args:
        composite: its table.
        halves: half → its whole configuration, in its role.
        tokens: role → id, see `converter.composition.tokens`.
        changes: fields that the user set.
    """
    decoder = halves["decoder"]
    return {
        "architectures": [composite.classes["pytorch"]],
        "dtype": decoder.get("dtype", decoder.get("torch_dtype")),
        "is_encoder_decoder": True,
        "model_type": composite.name,
        **_ids(tokens),
        **{half: dict(config) for half, config in halves.items()},
        **changes,
    }


def with_tokens(raw: Mapping[str, Any], tokens: Mapping[str, int]) -> dict[str, Any]:
    """A decoder's configuration that generates with the same tokens as the composite.

    Its ``pad_token_id`` stays what it is: RoBERTa and its kin count positions from it.
    """
    ids = {field: number for field, number in _ids(tokens).items() if field != FIELDS["pad"]}
    return {**raw, **ids}


def _ids(tokens: Mapping[str, int]) -> dict[str, int]:
    return {field: tokens[role] for role, field in FIELDS.items() if role in tokens}


def in_role(raw: Mapping[str, Any], role: Role, dtype: str) -> dict[str, Any]:
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


def generation_config(tokens: Mapping[str, int]) -> bytes:
    """The ``generation_config.json`` with which ``generate()`` starts, ends and pads."""
    return to_json({"_from_model_config": True, **_ids(tokens)})

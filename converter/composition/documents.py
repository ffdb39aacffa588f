"""The small files of an output: configurations, and what travels along from the sources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.composition.tokens import FIELDS
from converter.jsonfile import to_json
from converter.tables.schema import Composite, Role

GENERATION_CONFIG = "generation_config.json"

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "source.spm",
    "target.spm",
    "dict.txt",
    "bpe.codes",
    "emoji.txt",
)
"""The files that transformers' tokenizers are saved in."""

PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "feature_extractor_config.json",
    "video_preprocessor_config.json",
)
"""The files that say how images or sound become the encoder's input."""

_ORIGINALLY = {
    "vocab.json": "encoder.json",
    "merges.txt": "vocab.bpe",
    "spiece.model": "30k-clean.model",
}
"""Name of a tokenizer file → what original releases call it."""


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


def tokenizer_files(directory: Path, below: str = "") -> dict[str, Path]:
    """The tokenizer files in `directory`: target path below `below` → source path."""
    return {
        f"{below}{name}": directory / stored
        for name in TOKENIZER_FILES
        for stored in (_ORIGINALLY.get(name, name), name)  # transformers' own name wins
        if (directory / stored).is_file()
    }


def processor_files(directory: Path) -> dict[str, Path]:
    """The files of image processors and feature extractors in `directory`: name → path."""
    return {name: directory / name for name in PROCESSOR_FILES if (directory / name).is_file()}


def same_files(first: Mapping[str, Path], second: Mapping[str, Path]) -> bool:
    """Whether two sets of files have the same names and contents."""
    return first.keys() == second.keys() and all(
        path.read_bytes() == second[name].read_bytes() for name, path in first.items()
    )

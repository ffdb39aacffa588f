"""Which files of a repository are needed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

INDEX = ".index.json"
"""What the name of an index of shards ends in, behind the name of the whole file."""

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack")
"""The names that transformers gives whole weight files, in the order of preference."""

_SMALL = re.compile(
    r"(?:decoder_tokenizer/)?[^/]+\.(?:json|txt|model|jinja|spm|codes|bpe|tokenizer)|README\.md"
)
"""Configurations, tokenizers, processors, and the card, which states the licence."""
_BUNDLE = re.compile(r"([^/]+)\.(?:index|data-\d{5}-of-\d{5})")


def small_files(names: Iterable[str]) -> list[str]:
    """The files that are no weights and that a conversion reads or passes on."""
    return [name for name in names if _SMALL.fullmatch(name) and not name.endswith(INDEX)]


def weight_files(names: Iterable[str], every: bool = False) -> list[str]:
    """The files to begin with to have the weights: whole files, indexes of shards, or a bundle.

    Args:
        names: all files of the repository.
        every: whether to take all formats, not the preferred one alone.
    """
    held = set(names)
    found = [name for whole in WEIGHT_FILES for name in (whole, whole + INDEX) if name in held]
    if found:
        return found if every else found[:1]
    return _bundles(sorted(held))


def _bundles(names: Sequence[str]) -> list[str]:
    """The files of the TensorFlow checkpoints at the top of the repository."""
    return [name for name in names if _BUNDLE.fullmatch(name)]

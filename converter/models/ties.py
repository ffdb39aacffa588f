"""The ties of a source's tensors, as the classes that saved it use them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from converter.architectures.registry import ArchitectureRegistry
from converter.checkpoint.opening import Checkpoint
from converter.models.model import Model, resolve_model
from converter.plan import SourceTensor

_FIELD = "tie_word_embeddings"
_SAMPLE = 8
"""The length of the block that is compared, along each axis."""


def resolve_as_used(
    checkpoint: Checkpoint,
    registry: ArchitectureRegistry,
    settings: Sequence[str] = (),
    label: str = "source",
) -> Model:
    """Return the model that `checkpoint` holds, with ties as the class that saved it has them.

    Classes of TensorFlow and Flax may ignore ``tie_word_embeddings``: one with an output layer of
    its own uses other values there if they differ, and the model is then untied; one that always
    uses the word embeddings saves no output layer, and the model is tied. `settings` that state the
    field are kept. Otherwise as `resolve_model`.
    """
    model = resolve_model(checkpoint, registry, settings, label)
    stated = {setting.partition("=")[0] for setting in settings}
    dialect = model.key_match.dialect
    for submodel, config in model.configs.items():
        fields = (name for name in config.architecture.config if name.endswith(f".{_FIELD}"))
        setting = ".".join(filter(None, (submodel, next(fields, _FIELD))))
        if dialect in ("", "pytorch") or setting in stated:
            continue
        copies = list(_separate_copies(model, submodel))
        missing = _missing(model)
        if copies:
            untied = resolve_model(checkpoint, registry, (*settings, f"{setting}=false"), label)
            if all(not untied.spec.by_name[name].tied_to for _, name, _ in copies):
                settings = (*settings, f"{setting}=false")
                named = ", ".join(f"{name} and {root}" for root, name, _ in copies)
                note = f"{named} differ, and the class that saved them uses both: {setting} is"
                model = _with_copies(untied, copies, f"{note} set to false")
        elif missing and dialect in model.unsupported_reasons:
            tied = resolve_model(checkpoint, registry, (*settings, f"{setting}=true"), label)
            if dialect not in tied.unsupported_reasons and not missing & _missing(tied):
                settings = (*settings, f"{setting}=true")
                why = model.unsupported_reasons[dialect]
                note = f"has no {', '.join(sorted(missing))} ({why}): {setting} is set to true"
                model = replace(tied, notes=(*tied.notes, note))
    return model


def _missing(model: Model) -> set[str]:
    return {param.name for param in model.required} - model.key_match.matched.keys()


def _separate_copies(model: Model, submodel: str) -> Iterator[tuple[str, str, SourceTensor]]:
    """Yield what is stored next to the tensor that it is tied to, and differs.

    Each is the canonical name of the latter, that of the tied tensor, and what is stored.
    """
    match = model.key_match
    for root, entries in match.duplicates.items():
        for name, stored in entries:
            param = model.spec.by_name.get(name)
            if param is None or not param.tied_to or not root.startswith(submodel):
                continue
            is_separate = match.dialect in param.stored_in | param.copied_in - param.overrides_in
            if is_separate and root in match.matched and _differ(match.matched[root], stored):
                yield root, name, stored


def _with_copies(
    untied: Model, copies: Sequence[tuple[str, str, SourceTensor]], note: str
) -> Model:
    """Return the untied model with the values of `copies`, some of which have no own name."""
    matched, duplicates = dict(untied.key_match.matched), dict(untied.key_match.duplicates)
    for root, name, stored in copies:
        matched[name] = stored
        duplicates[root] = tuple(entry for entry in duplicates.get(root, ()) if entry[1] != stored)
    match = replace(untied.key_match, matched=matched, duplicates=duplicates)
    return replace(untied, key_match=match, notes=(*untied.notes, note))


def _differ(first: SourceTensor, second: SourceTensor) -> bool:
    """Return whether some values of two tensors of the same canonical shape differ.

    Training changes nearly all; the others are compared when they are copied.
    """
    return not np.array_equal(_block(first), _block(second), equal_nan=True)


def _block(stored: SourceTensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a few values of a tensor, those after the middle of each axis, as canonical."""
    tensor, order = stored.tensor, stored.rearrangement.source.order
    middle = [slice(n // 2, min(n // 2 + _SAMPLE, n)) for n in tensor.spec.shape]
    rows = tensor.read(0, middle[0].start, middle[0].stop)[(slice(None), *middle[1:])]
    named = [n for axis, n in zip(order, rows.shape, strict=True) if axis != "1"]
    return rows.reshape(named).transpose(stored.rearrangement.permutation).astype(np.float64)

"""From a blueprint and what was found to planned tensors and files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from converter.checkpoint import WEIGHT_FILES
from converter.containers.registry import container_named
from converter.initialise import Initialiser
from converter.plan import Fresh, PlannedEntry, PlannedFile, PlannedTensor, Stored
from converter.tables.blueprint import Blueprint, Slot
from converter.tensors import Rearrangement, TensorSpec
from converter.tensors.dtypes import FLOATING

SAFETENSORS, TORCH, HDF5, MSGPACK = WEIGHT_FILES

_WIDER = {"bfloat16": "float32", "float8_e4m3fn": "float32", "float8_e5m2": "float32"}
"""The narrowest common dtype that holds every value of one that a container lacks."""


@dataclass(frozen=True)
class Finding:
    """What is known of the values of one target tensor."""

    stored: Stored
    copies: tuple[Stored, ...] = ()


def plan_tensors(
    target: Blueprint,
    findings: Mapping[str, Finding],
    reasons: Mapping[str, str],
    fresh_dtype: Callable[[Slot], str],
    *,
    dtype: str,
    seed: int,
    rule: Callable[[Slot], str] = lambda slot: slot.rule,
) -> list[PlannedTensor]:
    """Every tensor of `target` that has values of its own, with its origin.

    Args:
        target: the model to be written.
        findings: canonical name → where its values lie.
        reasons: part → why its tensors are drawn anew.
        fresh_dtype: the dtype of a tensor that is drawn anew, if `dtype` keeps.
        dtype: ``keep``, or the dtype that floating-point tensors are cast to.
        seed: of the fresh weights.
        rule: how a slot is drawn, where not as its table says.
    """
    planned = []
    for slot in target.slots:
        if slot.tied_to:
            continue
        finding = findings.get(slot.name)
        kept = finding.stored.tensor.spec.dtype if finding else fresh_dtype(slot)
        spec = TensorSpec(
            slot.name,
            kept if dtype == "keep" or kept not in FLOATING else dtype,
            slot.canonical.shape,
        )
        if finding:
            planned.append(PlannedTensor(spec, finding.stored, finding.copies))
        else:
            initialiser = Initialiser(
                slot.rule if slot.rule == "constant" else rule(slot), slot.scale, seed, slot.name
            )
            planned.append(PlannedTensor(spec, Fresh(initialiser, reasons[slot.part])))
    return planned


def plan_files(
    target: Blueprint,
    tensors: Iterable[PlannedTensor],
    classes: Mapping[str, str],
    frameworks: Sequence[str],
    pytorch_format: str,
) -> tuple[list[PlannedFile], list[str]]:
    """The weight files of an output, and what a user should know of them.

    Args:
        target: the model to be written.
        tensors: its planned tensors.
        classes: framework → the class that will load the file.
        frameworks: what to write for.
        pytorch_format: ``safetensors``, ``bin`` or ``both``.
    """
    dtypes = {tensor.spec.name: tensor.spec.dtype for tensor in tensors}
    files, notes = [], []
    for framework in frameworks:
        for name, container in _formats(framework, pytorch_format):
            entries, widened = _entries(target, dtypes, framework, container)
            if widened:
                notes.append(
                    f"{name}: {', '.join(sorted(widened))} is written as float32, without loss"
                )
            metadata = {}
            if container == "safetensors":
                metadata = {"format": "pt"}
            elif container == "keras-hdf5":
                metadata = {"scope": _snake_case(classes[framework])}
                if target.relisted.get(framework):
                    metadata["shared"] = json.dumps(target.relisted[framework])
            files.append(
                PlannedFile(
                    path=name,
                    framework=framework,
                    container=container,
                    entries=entries,
                    aliases=_aliases(target) if container == "torch" else {},
                    metadata=metadata,
                )
            )
    return files, notes


def _formats(framework: str, pytorch_format: str) -> list[tuple[str, str]]:
    if framework == "tensorflow":
        return [(HDF5, "keras-hdf5")]
    if framework == "flax":
        return [(MSGPACK, "flax-msgpack")]
    formats = []
    if pytorch_format != "bin":
        formats.append((SAFETENSORS, "safetensors"))
    if pytorch_format != "safetensors":
        formats.append((TORCH, "torch"))
    return formats


def _entries(
    target: Blueprint, dtypes: Mapping[str, str], dialect: str, container: str
) -> tuple[list[PlannedEntry], set[str]]:
    """The entries of one file, and the dtypes that its container made wider."""
    holds = container_named(container).dtypes
    entries, widened = [], set()
    for slot in target.slots:
        if slot.tied_to and dialect not in slot.stored:
            continue
        origin = target.resolve(slot)
        dtype = dtypes[origin.name]
        if dtype not in holds:
            widened.add(dtype)
            dtype = _WIDER[dtype]
        spelling = slot.spellings[dialect]
        entries.append(
            PlannedEntry(
                tensor=origin.name,
                spec=TensorSpec(spelling.name, dtype, spelling.shape),
                rearrangement=Rearrangement(slot.canonical.axes, spelling.axes),
            )
        )
    return entries, widened


def _aliases(target: Blueprint) -> dict[str, str]:
    """PyTorch names of tied tensors → the names whose bytes they share, as in ``torch.save``."""
    return {
        slot.canonical.name: target.resolve(slot).canonical.name
        for slot in target.slots
        if slot.tied_to
    }


def _snake_case(name: str) -> str:
    """The scope that Keras gives a model of this class: ``TFBertModel`` → ``tf_bert_model``."""
    text = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", text).lower()

"""A combined checkpoint taken apart again: two halves that load by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from converter.checkpoint import open_checkpoint
from converter.composition.assemble import Finding, plan_tensors
from converter.composition.documents import with_dtype
from converter.composition.files import SAFETENSORS, WeightFiles, plan_files
from converter.composition.frameworks import choose, obstacles
from converter.composition.generation import GENERATION_CONFIG
from converter.composition.joint import JOINT
from converter.composition.model import Model, understand
from converter.composition.options import OutputOptions, OutputWishes
from converter.composition.production import Result, produce
from converter.composition.travelling import DECODER_TOKENIZER, processor_files, tokenizer_files
from converter.errors import UnsupportedError
from converter.jsonfile import to_json
from converter.matching import dominant_dtype
from converter.plan import Plan, PlannedFile, PlannedTensor
from converter.tables.blueprint import CROSS_ATTENTION, Blueprint, Draftsman
from converter.tables.library import Library

_INHERITED = ("decoder_start_token_id", "eos_token_id")
"""Fields of the combined configuration that the decoder needs by itself."""


@dataclass(frozen=True)
class _Part:
    """One half on its way out."""

    weights: WeightFiles
    config: Mapping[str, Any]
    classes: Mapping[str, str]
    warnings: Sequence[str]


def split(
    source: str | Path,
    output: str | Path,
    *,
    set: Sequence[str] = (),
    mapping: Sequence[str | Path] = (),
    config: str | Path | None = None,
    **options: Unpack[OutputWishes],
) -> Result:
    """Write the encoder and the decoder of a combined checkpoint as checkpoints of their own.

    They go to ``OUTPUT/encoder`` and ``OUTPUT/decoder``. A projection between the two widths, which
    belongs to neither, goes to ``OUTPUT/joint.safetensors``; `compose` of the two directories finds
    it there and gives back the combined checkpoint bit for bit.

    Args:
        source: a combined checkpoint: a directory or a weight file.
        output: the directory to be made.
        set: configuration fields, ``encoder.KEY=VALUE`` or ``decoder.KEY=VALUE``.
        mapping: a user's own mapping tables.
        config: the configuration, where none lies beside the weights.
        options: see `OutputOptions`.

    Returns:
        What was written, or with ``dry_run`` what would be.

    Raises:
        UnsupportedError: if the source is no combined checkpoint.
        ConverterError: see `converter.errors`; nothing is written then.
    """
    wanted = OutputOptions(**options)
    library = Library(Path(path) for path in mapping)
    with open_checkpoint(source, config, headers=wanted.dry_run) as checkpoint:
        model = understand(checkpoint, library, set)
        if not model.halves:
            raise UnsupportedError(
                f"{checkpoint.reference}: is no combined model; nothing to split"
            )
        model.report.require(model.required)
        tensors = plan_tensors(
            model.target,
            _findings(model),
            model.reasons,
            lambda slot: dominant_dtype(model.report.matched),
            dtype=wanted.dtype,
            seed=0,
        )
        parts = {half: _part(half, model, tensors, wanted, library) for half in model.halves}
        plan = Plan(
            command="split",
            tensors=tensors,
            files=(
                *(file for part in parts.values() for file in part.weights.files),
                *_joint(model, tensors),
            ),
            documents=_documents(parts),
            copied_files=_copied(model),
            warnings=(
                *model.notes,
                *(
                    f"{half}: {warning}"
                    for half, part in parts.items()
                    for warning in (*part.warnings, *part.weights.notes)
                ),
            ),
        )
        return produce(
            plan,
            output,
            wanted,
            sources=[model],
            tables=model.tables,
            settings={"share": model.shared},
            classes={half: part.classes for half, part in parts.items()},
        )


def _findings(model: Model) -> dict[str, Finding]:
    return {
        name: Finding(stored, tuple(copy for _, copy in model.report.copies.get(name, ())))
        for name, stored in model.report.matched.items()
    }


def _part(
    half: str,
    model: Model,
    tensors: Sequence[PlannedTensor],
    wanted: OutputOptions,
    library: Library,
) -> _Part:
    """The files and the configuration of one half."""
    config = model.configs[half]
    family = config.family
    alone = family.models[family.roles[half].model]
    parts = dict.fromkeys((*alone.parts, *([CROSS_ATTENTION] if half == "decoder" else [])))
    target = Draftsman(library.vocabulary).model(config, parts, alone.heads)
    frameworks, warnings = choose(wanted.to, obstacles(config, alone))
    lead = f"{half}."
    own = [
        replace(tensor, spec=replace(tensor.spec, name=tensor.spec.name.removeprefix(lead)))
        for tensor in tensors
        if tensor.spec.name.startswith(lead)
    ]
    weights = plan_files(
        target, own, alone.classes, frameworks, wanted.pytorch_format, wanted.shard_bytes
    )
    files = tuple(
        replace(
            file,
            path=f"{half}/{file.path}",
            entries=[replace(entry, tensor=lead + entry.tensor) for entry in file.entries],
        )
        for file in weights.files
    )
    indexes = {f"{half}/{name}": content for name, content in weights.indexes.items()}
    raw = {**config.raw, "architectures": [alone.name]}
    if half == "decoder":
        raw |= {key: model.raw[key] for key in _INHERITED if model.raw.get(key) is not None}
    if wanted.dtype != "keep":
        raw = with_dtype(raw, wanted.dtype)
    return _Part(replace(weights, files=files, indexes=indexes), raw, alone.classes, warnings)


def _joint(model: Model, tensors: Sequence[PlannedTensor]) -> list[PlannedFile]:
    """The file of what belongs to neither half, if there is anything."""
    leads = tuple(f"{half}." for half in model.halves)
    own = [tensor for tensor in tensors if not tensor.spec.name.startswith(leads)]
    if not own:
        return []
    names = {tensor.spec.name for tensor in own}
    target = Blueprint(tuple(slot for slot in model.target.slots if slot.name in names))
    weights = plan_files(target, own, {}, ["pytorch"], "safetensors")
    return [replace(file, path=JOINT) for file in weights.files if file.path == SAFETENSORS]


def _documents(parts: Mapping[str, _Part]) -> dict[str, bytes]:
    documents = {f"{half}/config.json": to_json(part.config) for half, part in parts.items()}
    for part in parts.values():
        documents |= part.weights.indexes
    return documents


def _copied(model: Model) -> dict[str, Path]:
    """The tokenizer of each half; a combined checkpoint with one tokenizer has it for both, or for
    its decoder if its encoder reads no texts."""
    directory = model.checkpoint.directory
    decoder = directory / DECODER_TOKENIZER
    own = decoder if decoder.is_dir() else directory
    copied = {f"encoder/{name}": path for name, path in processor_files(directory).items()}
    if model.configs["encoder"].measure("vocabulary") is not None:
        copied |= tokenizer_files(directory, "encoder/")
    copied |= tokenizer_files(own, "decoder/")
    generation = directory / GENERATION_CONFIG
    if generation.is_file():
        copied[f"decoder/{GENERATION_CONFIG}"] = generation
    return copied

"""The same model in other frameworks, containers or dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from converter.checkpoint import open_checkpoint
from converter.composition.assemble import Finding, plan_tensors
from converter.composition.documents import with_dtype
from converter.composition.files import plan_files
from converter.composition.frameworks import choose
from converter.composition.generation import GENERATION_CONFIG
from converter.composition.model import Model, understand
from converter.composition.options import OutputOptions, OutputWishes
from converter.composition.production import Result, produce
from converter.composition.travelling import both_tokenizers, processor_files
from converter.jsonfile import to_json
from converter.matching import dominant_dtype
from converter.plan import Plan
from converter.tables.library import Library


def convert(
    source: str | Path,
    output: str | Path,
    *,
    seed: int = 0,
    set: Sequence[str] = (),
    mapping: Sequence[str | Path] = (),
    config: str | Path | None = None,
    **options: Unpack[OutputWishes],
) -> Result:
    """Write a checkpoint again, for other frameworks, in other containers or dtypes.

    Args:
        source: a stand-alone or a combined checkpoint: a directory or a weight file.
        output: the directory to be made.
        seed: of weights that the model's class has and the checkpoint lacks (a pooler).
        set: configuration fields, ``KEY=VALUE``; in a combined model also ``encoder.KEY=VALUE``.
        mapping: a user's own mapping tables.
        config: the configuration, where none lies beside the weights.
        options: see `OutputOptions`.

    Returns:
        What was written, or with ``dry_run`` what would be.

    Raises:
        ConverterError: see `converter.errors`; nothing is written then.
    """
    wanted = OutputOptions(**options)
    library = Library(Path(path) for path in mapping)
    with open_checkpoint(source, config, headers=wanted.dry_run) as checkpoint:
        model = understand(checkpoint, library, set)
        plan = plan_conversion(model, wanted, seed)
        written = {tensor.spec.name for tensor in plan.tensors}
        held = [name for name in model.report.matched if name in model.target.by_name]
        model.report.leave_out(
            [name for name in held if name not in written], "no class that is written for has it"
        )
        return produce(
            plan,
            output,
            wanted,
            sources=[model],
            tables=model.tables,
            settings={"seed": seed, "set": list(set)},
            classes={"": model.classes},
        )


def plan_conversion(model: Model, wanted: OutputOptions, seed: int) -> Plan:
    """How a model is written again.

    Args:
        model: the source, understood.
        wanted: for which frameworks, and how.
        seed: of weights that the model's class has and the checkpoint lacks.

    Raises:
        UnsupportedError: if a framework is asked for that has no class for the model.
        MatchError: if tensors are missing or unknown, or of wrong shapes.
    """
    frameworks, warnings = choose(wanted.to, model.obstacles)
    model.report.require(model.required)
    findings = {
        name: Finding(stored, tuple(copy for _, copy in model.report.copies.get(name, ())))
        for name, stored in model.report.matched.items()
        if name in model.target.by_name
    }
    kept = dominant_dtype(model.report.matched)
    tensors = plan_tensors(
        model.target,
        findings,
        model.reasons,
        lambda slot: kept,
        dtype=wanted.dtype,
        seed=seed,
    )
    weights = plan_files(
        model.target,
        tensors,
        model.classes,
        frameworks,
        wanted.pytorch_format,
        wanted.shard_bytes,
    )
    written = {entry.tensor for file in weights.files for entry in file.entries}
    tensors = [tensor for tensor in tensors if tensor.spec.name in written]
    raw = model.raw
    if wanted.dtype != "keep":
        raw = {
            key: with_dtype(value, wanted.dtype) if key in model.halves else value
            for key, value in with_dtype(raw, wanted.dtype).items()
        }
    copied = {
        **processor_files(model.checkpoint.directory),
        **both_tokenizers(model.checkpoint.directory),
    }
    generation = model.checkpoint.directory / GENERATION_CONFIG
    if generation.is_file():
        copied[GENERATION_CONFIG] = generation
    return Plan(
        command="convert",
        tensors=tensors,
        files=weights.files,
        documents={"config.json": to_json(raw), **weights.indexes},
        copied_files=copied,
        warnings=(*warnings, *model.notes, *weights.notes),
    )

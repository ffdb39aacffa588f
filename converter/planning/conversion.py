"""The plan of a conversion: the same model in other frameworks, formats or dtypes."""

from __future__ import annotations

from converter.file_names import CONFIG, GENERATION_CONFIG
from converter.models.framework_support import select_frameworks
from converter.models.key_matching import dominant_dtype
from converter.models.model import Model
from converter.options import OutputOptions
from converter.plan import Plan
from converter.planning.output_configs import with_dtype
from converter.planning.tensor_plan import SourceMatch, plan_tensors
from converter.planning.tokenizer_files import all_tokenizer_files, processor_files
from converter.planning.weight_files import plan_files
from converter.safe_json import to_json


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
    frameworks, warnings = select_frameworks(wanted.to, model.unsupported_reasons)
    model.report.require(model.required)
    findings = {
        name: SourceMatch(stored, tuple(copy for _, copy in model.report.copies.get(name, ())))
        for name, stored in model.report.matched.items()
        if name in model.target.by_name
    }
    kept = dominant_dtype(model.report.matched)
    tensors = plan_tensors(
        model.target,
        findings,
        model.reasons,
        lambda param: kept,
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
            key: with_dtype(value, wanted.dtype) if key in model.submodels else value
            for key, value in with_dtype(raw, wanted.dtype).items()
        }
    copied = {
        **processor_files(model.checkpoint.directory),
        **all_tokenizer_files(model.checkpoint.directory),
    }
    generation = model.checkpoint.directory / GENERATION_CONFIG
    if generation.is_file():
        copied[GENERATION_CONFIG] = generation
    return Plan(
        command="convert",
        tensors=tensors,
        files=weights.files,
        documents={CONFIG: to_json(raw), **weights.indexes},
        copied_files=copied,
        warnings=(*warnings, *model.notes, *weights.notes),
    )

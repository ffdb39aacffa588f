"""A combined checkpoint taken apart again: two halves that load by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converter.architectures.model_spec import ModelSpec, ModelSpecBuilder
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import CROSS_ATTENTION
from converter.checkpoint.opening import open_files
from converter.errors import UnsupportedError
from converter.execution.write_checkpoint import WriteResult, write_checkpoint
from converter.file_names import GENERATION_CONFIG, JOINT_WEIGHTS, SAFETENSORS_WEIGHTS
from converter.models.framework_support import select_frameworks, unsupported_reasons
from converter.models.key_matching import dominant_dtype
from converter.models.model import Model, resolve_model
from converter.option_declaration import takes
from converter.options import OutputOptions, SplitOptions
from converter.plan import OutputFile, Plan, TargetTensor
from converter.planning.output_configs import with_dtype
from converter.planning.tensor_plan import SourceMatch, plan_tensors
from converter.planning.tokenizer_files import DECODER_TOKENIZER, processor_files, tokenizer_files
from converter.planning.weight_files import WeightFiles, plan_files
from converter.safe_json import to_json

_INHERITED = ("decoder_start_token_id", "eos_token_id")
"""Fields of the combined configuration that the decoder needs by itself."""


@dataclass(frozen=True)
class _SubmodelOutput:
    """One half on its way out."""

    weights: WeightFiles
    config: Mapping[str, Any]
    classes: Mapping[str, str]
    warnings: Sequence[str]


@takes(SplitOptions)
def split(options: SplitOptions) -> WriteResult:
    """Split an encoder-decoder checkpoint into an encoder and a decoder checkpoint.

    They go to ``OUTPUT/encoder`` and ``OUTPUT/decoder``. A projection between their hidden sizes,
    which is part of neither, goes to ``OUTPUT/joint.safetensors``; `compose` of the two directories
    reads it from there and restores the source bit for bit.

    Returns:
        What was written, or with ``dry_run`` what would be written.

    Raises:
        UnsupportedError: if the source is not an encoder-decoder checkpoint.
        ConverterError: see `converter.errors`; nothing is written then.

    """
    registry = ArchitectureRegistry(Path(path) for path in options.mapping)
    with open_files(options.source, options.config, headers=options.dry_run) as checkpoint:
        model = resolve_model(checkpoint, registry, options.set)
        if not model.submodels:
            raise UnsupportedError(
                f"{checkpoint.reference}: is no combined model; nothing to split"
            )
        model.report.require(model.required)
        tensors = plan_tensors(
            model.target,
            _findings(model),
            model.reasons,
            lambda param: dominant_dtype(model.report.matched),
            dtype=options.dtype,
            seed=0,
        )
        parts = {
            submodel: _part(submodel, model, tensors, options, registry)
            for submodel in model.submodels
        }
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
                    f"{submodel}: {warning}"
                    for submodel, part in parts.items()
                    for warning in (*part.warnings, *part.weights.notes)
                ),
            ),
        )
        return write_checkpoint(
            plan,
            options.output,
            options,
            sources=[model],
            tables=model.tables,
            settings={"share": model.shared},
            classes={submodel: part.classes for submodel, part in parts.items()},
        )


def _findings(model: Model) -> dict[str, SourceMatch]:
    return {
        name: SourceMatch(stored, tuple(copy for _, copy in model.report.copies.get(name, ())))
        for name, stored in model.report.matched.items()
    }


def _part(
    submodel: str,
    model: Model,
    tensors: Sequence[TargetTensor],
    options: OutputOptions,
    registry: ArchitectureRegistry,
) -> _SubmodelOutput:
    """The files and the configuration of one half."""
    config = model.configs[submodel]
    architecture = config.architecture
    alone = architecture.models[architecture.roles[submodel].model]
    parts = dict.fromkeys((*alone.parts, *([CROSS_ATTENTION] if submodel == "decoder" else [])))
    target = ModelSpecBuilder(registry.conventions).model(config, parts, alone.heads)
    frameworks, warnings = select_frameworks(options.to, unsupported_reasons(config, alone))
    lead = f"{submodel}."
    own = [
        replace(tensor, spec=replace(tensor.spec, name=tensor.spec.name.removeprefix(lead)))
        for tensor in tensors
        if tensor.spec.name.startswith(lead)
    ]
    weights = plan_files(
        target, own, alone.classes, frameworks, options.pytorch_format, options.shard_bytes
    )
    files = tuple(
        replace(
            file,
            path=f"{submodel}/{file.path}",
            entries=[replace(entry, tensor=lead + entry.tensor) for entry in file.entries],
        )
        for file in weights.files
    )
    indexes = {f"{submodel}/{name}": content for name, content in weights.indexes.items()}
    raw = {**config.raw, "architectures": [alone.name]}
    if submodel == "decoder":
        raw |= {key: model.raw[key] for key in _INHERITED if model.raw.get(key) is not None}
    if options.dtype != "keep":
        raw = with_dtype(raw, options.dtype)
    return _SubmodelOutput(
        replace(weights, files=files, indexes=indexes), raw, alone.classes, warnings
    )


def _joint(model: Model, tensors: Sequence[TargetTensor]) -> list[OutputFile]:
    """The file of what belongs to neither half, if there is anything."""
    leads = tuple(f"{submodel}." for submodel in model.submodels)
    own = [tensor for tensor in tensors if not tensor.spec.name.startswith(leads)]
    if not own:
        return []
    names = {tensor.spec.name for tensor in own}
    target = ModelSpec(tuple(param for param in model.target.params if param.name in names))
    weights = plan_files(target, own, {}, ["pytorch"], "safetensors")
    return [
        replace(file, path=JOINT_WEIGHTS)
        for file in weights.files
        if file.path == SAFETENSORS_WEIGHTS
    ]


def _documents(parts: Mapping[str, _SubmodelOutput]) -> dict[str, bytes]:
    documents = {
        f"{submodel}/config.json": to_json(part.config) for submodel, part in parts.items()
    }
    for part in parts.values():
        documents |= part.weights.indexes
    return documents


def _copied(model: Model) -> dict[str, Path]:
    """The tokenizer of each half; a combined checkpoint with one tokenizer has it for both, or for
    its decoder if its encoder reads no texts.
    """
    directory = model.checkpoint.directory
    decoder = directory / DECODER_TOKENIZER
    own = decoder if decoder.is_dir() else directory
    copied = {f"encoder/{name}": path for name, path in processor_files(directory).items()}
    if model.configs["encoder"].attribute("vocabulary") is not None:
        copied |= tokenizer_files(directory, "encoder/")
    copied |= tokenizer_files(own, "decoder/")
    generation = directory / GENERATION_CONFIG
    if generation.is_file():
        copied[f"decoder/{GENERATION_CONFIG}"] = generation
    return copied

"""The plans of `convert` and `split`: the same model in other files, or its submodels alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from converter.architectures.model_spec import ModelSpec, ModelSpecBuilder
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import Composite
from converter.errors import UnsupportedError
from converter.file_names import GENERATION_CONFIG, JOINT_WEIGHTS
from converter.models.framework_support import (
    composite_class,
    select_frameworks,
    unsupported_reasons,
)
from converter.models.key_matching import dominant_dtype
from converter.models.model import Model
from converter.options import OutputOptions
from converter.plan import OutputFile, Plan, TargetTensor
from converter.planning.configs import with_dtype
from converter.planning.planner import OutputModel, build_plan, plan_files
from converter.planning.tensor_origins import plan_tensors
from converter.planning.tokenizer_files import (
    all_tokenizer_files,
    processor_files,
    sentence_transformer_files,
    tokenizer_files,
)
from converter.safe_json import file_to_copy

_INHERITED = ("decoder_start_token_id", "eos_token_id")
"""Fields of the combined configuration that a decoder needs in its own."""


def plan_conversion(
    model: Model,
    options: OutputOptions,
    seed: int,
    settings: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Plan:
    """Return the plan to write a model for other frameworks, in other formats or dtypes.

    Weights that the model's class has and the checkpoint lacks are initialized with `seed`;
    `settings` are the configuration fields that were set, and `ignore` the patterns of tensors that
    were left out, for the manifest. Raise UnsupportedError
    if a requested framework has no class for the model, MatchError if tensors are missing or
    unknown, or have wrong shapes.
    """
    frameworks, warnings = select_frameworks(options.to, model.unsupported_reasons)
    notes = model.composite.notes if model.composite else {}
    warnings += [f"{name}: {notes[name]}" for name in frameworks if name in notes]
    raw = model.raw
    if options.dtype != "keep":
        nested = model.composite.configs.values() if model.composite else ()
        raw = {
            key: with_dtype(value, options.dtype) if key in nested else value
            for key, value in with_dtype(raw, options.dtype).items()
        }
    directory = model.checkpoint.directory
    copied = {**processor_files(directory), **all_tokenizer_files(directory, model.submodels)}
    if settings_file := file_to_copy(directory, GENERATION_CONFIG):
        copied[GENERATION_CONFIG] = settings_file
    if not model.submodels and "pytorch" in frameworks:
        modules, omitted = sentence_transformer_files(directory)
        copied |= modules
        warnings += omitted
    return build_plan(
        "convert",
        [model],
        _model_tensors(model, options.dtype, seed),
        [OutputModel(model.spec, model.classes, frameworks, raw)],
        model.tables,
        options,
        settings={"seed": seed, "set": list(settings), "ignore": list(ignore)},
        copied_files=copied,
        warnings=(*warnings, *model.notes),
    )


def plan_split(
    model: Model, options: OutputOptions, registry: ArchitectureRegistry, ignore: Sequence[str] = ()
) -> Plan:
    """Return the plan to write the submodels of a combined model as checkpoints of their own.

    A projection between their widths, which belongs to neither, gets a file next to them. Raise
    UnsupportedError if the model is not a combined one, MatchError if tensors are missing or
    unknown, or have wrong shapes.
    """
    if model.composite is None:
        raise UnsupportedError(
            f"{model.checkpoint.reference}: is not a combined model; nothing to split"
        )
    if model.composite.closed:
        raise UnsupportedError(
            f"{model.checkpoint.reference}: transformers has no class for the "
            f"{' or '.join(model.submodels)} of {model.composite.name} alone"
        )
    tensors = _model_tensors(model, options.dtype, seed=0)
    outputs, warnings = [], [*model.notes]
    for submodel in model.submodels:
        output, skipped = _submodel_output(submodel, model.composite, model, options, registry)
        outputs.append(output)
        warnings += [f"{submodel}: {warning}" for warning in skipped]
    return build_plan(
        "split",
        [model],
        tensors,
        outputs,
        model.tables,
        options,
        settings={"share": model.shared, "ignore": list(ignore)},
        copied_files=_submodel_files(model),
        other_files=_projection_file(model, tensors),
        warnings=warnings,
    )


def _model_tensors(model: Model, dtype: str, seed: int) -> list[TargetTensor]:
    match = model.key_match
    match.require(model.required)
    init_dtype = dominant_dtype(match.matched)
    return plan_tensors(
        model.spec,
        match.matched,
        {name: [stored for _, stored in entries] for name, entries in match.duplicates.items()},
        reasons=model.reasons,
        init_dtype=lambda param: init_dtype,
        dtype=dtype,
        seed=seed,
    )


def _submodel_output(
    submodel: str,
    composite: Composite,
    model: Model,
    options: OutputOptions,
    registry: ArchitectureRegistry,
) -> tuple[OutputModel, list[str]]:
    """Return the stand-alone model of a submodel, and warnings about skipped frameworks."""
    config = model.configs[submodel]
    model_class, parts = composite_class(composite, submodel, config)
    spec = ModelSpecBuilder(registry.conventions).model(
        config, parts, model_class.heads, base=model_class.base_model_prefix
    )
    frameworks, warnings = select_frameworks(options.to, unsupported_reasons(config, model_class))
    raw = {**config.raw, "architectures": [model_class.name]}
    if composite.roles[submodel] == "decoder":
        raw |= {key: model.raw[key] for key in _INHERITED if model.raw.get(key) is not None}
    if options.dtype != "keep":
        raw = with_dtype(raw, options.dtype)
    return OutputModel(spec, model_class.classes, frameworks, raw, submodel), warnings


def _projection_file(model: Model, tensors: Sequence[TargetTensor]) -> list[OutputFile]:
    """Return the file of what belongs to neither submodel, if there is anything."""
    prefixes = tuple(f"{submodel}." for submodel in model.submodels)
    dtypes = {
        tensor.spec.name: tensor.spec.dtype
        for tensor in tensors
        if not tensor.spec.name.startswith(prefixes)
    }
    if not dtypes:
        return []
    spec = ModelSpec(tuple(param for param in model.spec.params if param.name in dtypes))
    weights = plan_files(spec, dtypes, {}, ["pytorch"], "safetensors")
    return [replace(file, path=JOINT_WEIGHTS) for file in weights.files]


def _submodel_files(model: Model) -> dict[str, Path]:
    """Return the tokenizer, processor and generation files of the submodels.

    A directory such as ``decoder_tokenizer`` has that of one submodel; another tokenizer is that of
    both, or of the second if the first one's input is not text.
    """
    directory = model.checkpoint.directory
    first, second = model.submodels
    copied = {f"{first}/{name}": path for name, path in processor_files(directory).items()}
    for submodel in model.submodels:
        if submodel == second or model.configs[first].attribute("vocabulary") is not None:
            own = f"{submodel}_tokenizer"
            inner = f"{own}/" if (directory / own).is_dir() else ""
            copied |= tokenizer_files(directory, f"{submodel}/", inner)
    if settings_file := file_to_copy(directory, GENERATION_CONFIG):
        copied[f"{second}/{GENERATION_CONFIG}"] = settings_file
    return copied

"""The plans of `convert` and `split`: the same model in other files, or its submodels alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from converter.architectures.model_spec import ModelSpec
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import Composite
from converter.errors import UnsupportedError
from converter.file_names import GENERATION_CONFIG, JOINT_WEIGHTS
from converter.models.framework_support import select_frameworks, unsupported_reasons
from converter.models.key_matching import dominant_dtype
from converter.models.model import Model
from converter.models.stand_alone import StandAloneModel, stand_alone_model
from converter.options import OutputOptions
from converter.plan import OutputFile, Plan, TargetTensor
from converter.planning.configs import unknown_field_warnings, with_dtype
from converter.planning.generation_calls import generation_warnings
from converter.planning.planner import OutputModel, build_plan, plan_files, plan_tensors
from converter.planning.tokenizer_files import (
    TokenizerFiles,
    all_tokenizer_files,
    license_files,
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
    warnings += generation_warnings(model.configs, model.composite, frameworks)
    raw = model.raw
    if options.dtype != "keep":
        nested = model.composite.configs.values() if model.composite else ()
        raw = {
            key: with_dtype(value, options.dtype) if key in nested else value
            for key, value in with_dtype(raw, options.dtype).items()
        }
    directory = model.checkpoint.directory
    copied = {
        **processor_files(directory),
        **license_files(directory),
        **all_tokenizer_files(directory, model.submodels),
    }
    if settings_file := file_to_copy(directory, GENERATION_CONFIG):
        copied[GENERATION_CONFIG] = settings_file
    if not model.submodels:
        modules, omitted = sentence_transformer_files(directory)
        if modules and "pytorch" not in frameworks:
            modules = {}
            omitted = [
                "the modules of the SentenceTransformer are not copied: PyTorch alone has them"
            ]
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
        warnings=(*unknown_field_warnings(settings, _known_fields(model)), *warnings, *model.notes),
    )


def plan_split(
    model: Model,
    options: OutputOptions,
    registry: ArchitectureRegistry,
    settings: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Plan:
    """Return the plan to write the submodels of a combined model as checkpoints of their own.

    What belongs to neither, such as a projection between their widths, gets a file next to them;
    `settings` and `ignore` as for `plan_conversion`.
    Raise UnsupportedError if the model is not a combined one, MatchError if tensors are missing or
    unknown, or have wrong shapes.
    """
    if model.composite is None:
        raise UnsupportedError(
            f"{model.checkpoint.reference}: is not a combined model; nothing to split"
        )
    tensors = _model_tensors(model, options.dtype, seed=0)
    outputs, warnings = [], [*unknown_field_warnings(settings, _known_fields(model)), *model.notes]
    placed: dict[str, str] = {}
    for submodel, config in model.configs.items():
        own = stand_alone_model(model.composite, submodel, config, registry)
        output, skipped = _submodel_output(submodel, model.composite, own, model, options)
        outputs.append(output)
        warnings += [f"{submodel}: {warning}" for warning in skipped]
        placed |= {f"{submodel}.{old}": f"{submodel}.{new}" for old, new in own.names.items()}
    joint = {
        param.name: param.canonical.name
        for param in model.spec.params
        if param.name not in placed and not param.tied_to
    }
    if model.composite.closed:
        warnings += _closed_notes(model.composite, joint)
    copied, missing = _submodel_files(model)
    return build_plan(
        "split",
        [model],
        [
            replace(each, spec=replace(each.spec, name=placed.get(name) or joint[name]))
            for each in tensors
            for name in (each.spec.name,)
        ],
        outputs,
        model.tables,
        options,
        settings={"share": model.shared, "ignore": list(ignore)},
        copied_files=copied,
        other_files=_joint_file(model, tensors, joint),
        warnings=(*warnings, *missing),
    )


def _known_fields(model: Model) -> dict[str, set[str]]:
    """Return submodel, or field that holds a configuration → the fields of source and table."""
    stated = model.checkpoint.config
    fields = {name: {*nested} for name, nested in stated.items() if isinstance(nested, dict)}
    fields[""] = {*stated, *(model.composite.config if model.composite else ())}
    for submodel, config in model.configs.items():
        nested = stated.get(model.composite.configs[submodel]) if model.composite else {}
        fields.setdefault(submodel, set()).update(nested or (), config.architecture.config)
    return fields


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
    submodel: str, composite: Composite, own: StandAloneModel, model: Model, options: OutputOptions
) -> tuple[OutputModel, list[str]]:
    """Return the stand-alone model of a submodel, and warnings about skipped frameworks."""
    reasons = unsupported_reasons(own.config, own.model)
    frameworks, warnings = select_frameworks(options.to, reasons)
    raw = {**own.config.raw, "architectures": [own.model.name]}
    if composite.roles[submodel] == "decoder":
        raw |= {key: model.raw[key] for key in _INHERITED if model.raw.get(key) is not None}
    if options.dtype != "keep":
        raw = with_dtype(raw, options.dtype)
    return OutputModel(own.spec, own.model.classes, frameworks, raw, submodel), warnings


def _joint_file(
    model: Model, tensors: Sequence[TargetTensor], names: Mapping[str, str]
) -> list[OutputFile]:
    """Return the file of what belongs to neither submodel, if there is anything.

    `names` are canonical name → name in the file.
    """
    dtypes = {each.spec.name: each.spec.dtype for each in tensors if each.spec.name in names}
    if not dtypes:
        return []
    spec = ModelSpec(tuple(param for param in model.spec.params if param.name in dtypes))
    (file,) = plan_files(spec, dtypes, {}, ["pytorch"], "safetensors").files
    entries = [replace(entry, tensor=names[entry.tensor]) for entry in file.entries]
    return [replace(file, path=JOINT_WEIGHTS, entries=entries)]


def _closed_notes(composite: Composite, joint: Collection[str]) -> list[str]:
    """Return what the submodels lack that only the composite has."""
    return [
        f"{JOINT_WEIGHTS}: {len(joint)} tensors of {composite.name} that no stand-alone class has; "
        "compose of both submodels takes them from there",
        *([composite.split_note] if composite.split_note else []),
    ]


def _submodel_files(model: Model) -> tuple[dict[str, Path], list[str]]:
    """Return the tokenizer, processor, license and generation files of the submodels, and warnings.

    A directory such as ``decoder_tokenizer`` has that of one submodel; another tokenizer is that of
    both, or of the second if the first one's input is not text. It is not that of a submodel with
    fewer embeddings than tokens if the other one has enough.
    """
    directory = model.checkpoint.directory
    first, second = model.submodels
    copied = {f"{first}/{name}": path for name, path in processor_files(directory).items()}
    size, warnings = TokenizerFiles(directory).size, list[str]()
    embeddings = {name: config.attribute("vocabulary") for name, config in model.configs.items()}
    rows = [number for number in embeddings.values() if isinstance(number, int)]
    fits_one = size is not None and min(rows, default=0) < size <= max(rows, default=0)
    for submodel in model.submodels:
        copied |= {f"{submodel}/{name}": path for name, path in license_files(directory).items()}
        vocabulary, own = embeddings[submodel], f"{submodel}_tokenizer"
        if (directory / own).is_dir():
            copied |= tokenizer_files(directory, f"{submodel}/", f"{own}/")
        elif fits_one and isinstance(vocabulary, int) and size and size > vocabulary:
            warnings.append(
                f"{submodel}: gets no tokenizer: {own}/ is missing, and the tokenizer next to the "
                f"weights has {size:,} tokens, more than its {vocabulary:,} embeddings"
            )
        elif submodel == second or vocabulary is not None:
            copied |= tokenizer_files(directory, f"{submodel}/")
    if settings_file := file_to_copy(directory, GENERATION_CONFIG):
        copied[f"{second}/{GENERATION_CONFIG}"] = settings_file
    return copied, warnings

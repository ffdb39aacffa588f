"""An encoder and a decoder as one model: its parameters, and the tensors that hold their values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

from converter.architectures.model_config import ModelConfig
from converter.architectures.model_spec import BODY, ModelSpec, ParamSpec
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import CROSS_ATTENTION, Composite, ModelClass, Role
from converter.checkpoint.opening import Checkpoint
from converter.errors import ConverterError, FormatError, Problem, UnsupportedError
from converter.file_names import JOINT_WEIGHTS, MANIFEST
from converter.formats.base import StoredTensor
from converter.formats.registry import open_file
from converter.models.framework_support import role_unsupported_reasons, submodel_class
from converter.models.key_matching import dominant_dtype
from converter.models.source_model import (
    SourceModel,
    ignore_foreign_tensors,
    ignore_other_params,
    move_tied_values,
    required_params,
)
from converter.plan import SourceTensor
from converter.planning.layers_and_embeddings import name_before_selection
from converter.safe_json import read_json_object
from converter.tensors import Rearrangement

JOINT = "joint"
"""Label of the source that holds what belongs to neither submodel."""


@dataclass(frozen=True)
class Submodel:
    """A source in its role."""

    name: str
    """``encoder`` or ``decoder``, or its name in another composite: the prefix of names."""
    source: SourceModel
    role: Role
    model: ModelClass
    parts: tuple[str, ...]
    random: bool

    @cached_property
    def dtype(self) -> str:
        """The dtype that most of its values have."""
        return dominant_dtype(self.source.key_match.matched)


@dataclass(frozen=True)
class EncoderDecoderPair:
    """An encoder and a decoder, matched to the parameters of their composite."""

    composite: Composite
    submodels: tuple[Submodel, Submodel]
    spec: ModelSpec
    matched: Mapping[str, SourceTensor]
    """Canonical name in the composite → the tensor with its values."""
    duplicates: Mapping[str, tuple[SourceTensor, ...]]
    """Canonical name → further tensors that should hold the same values."""

    @property
    def sources(self) -> dict[str, SourceModel]:
        """Submodel → its source."""
        return {submodel.name: submodel.source for submodel in self.submodels}

    @property
    def configs(self) -> dict[str, ModelConfig]:
        """Submodel → its configuration."""
        return {name: source.config for name, source in self.sources.items()}

    def dtype(self, param: ParamSpec) -> str:
        """Return the dtype of a newly initialized tensor: that of its submodel."""
        encoder, decoder = self.submodels
        return encoder.dtype if param.name.startswith(f"{encoder.name}.") else decoder.dtype

    @property
    def reasons(self) -> dict[str, str]:
        """Part of the composite → why its tensors are newly initialized."""
        reasons = {
            CROSS_ATTENTION: "cross-attention, which neither checkpoint has",
            self.composite.name: "projects the encoder's hidden size to the decoder's"
            if self.composite.generates
            else "compares both encoders, and is in neither checkpoint",
        }
        for submodel in self.submodels:
            if submodel.random:
                reasons[BODY] = "is newly initialized, as requested"
            for part in (*submodel.parts, *submodel.model.heads):
                reasons.setdefault(part, f"the {submodel.name}'s checkpoint has no {part}")
        return reasons

    @property
    def notes(self) -> list[str]:
        """What the user should know about parts that are missing, kept or noted in the tables."""
        notes = []
        for submodel in self.submodels:
            if submodel.role.note:
                notes.append(f"{submodel.name}: {submodel.role.note}")
            if submodel.random:
                notes.append(f"{submodel.name}: all weights are newly initialized, as requested")
                continue
            notes += [f"{submodel.name}: {note}" for note in submodel.source.checkpoint.notes]
            if submodel.name == "decoder" and CROSS_ATTENTION in submodel.source.parts:
                notes.append(f"{submodel.name}: its own cross-attention is kept")
            absent = {
                param.part
                for param in _submodel_params(self.spec, submodel.name).values()
                if param.name not in self.matched and not param.tied_to
            }
            notes += [
                f"{submodel.name}: the checkpoint has no {part}, which is newly initialized"
                for part in (*submodel.model.parts, *submodel.model.heads)
                if part in absent
            ]
        if any(stored.source == JOINT for stored in self.matched.values()):
            notes.append(f"{JOINT_WEIGHTS}: taken from next to the two submodels that split wrote")
        return notes


def pair_models(
    sources: Mapping[str, SourceModel],
    registry: ArchitectureRegistry,
    random: Collection[str] = (),
    composite: Composite | None = None,
    fields: Mapping[str, Any] = MappingProxyType({}),
) -> EncoderDecoderPair:
    """Combine two sources to a composite, by default what the encoder's architecture calls for.

    The weights of the submodels in `random` are newly initialized; `fields` are those of the
    composite's configuration that are set. Raise UnsupportedError if an
    architecture does not have the role, or the decoder's configuration prevents a projection of the
    encoder's states; MatchError if a source does not fit its mapping table and configuration.
    """
    roles = composite.roles if composite else {name: name for name in sources}
    sources = {name: ignore_foreign_tensors(source) for name, source in sources.items()}
    first, second = (
        _submodel(name, roles[name], source, name in random) for name, source in sources.items()
    )
    if composite is None:
        _check_widths(first.source, second.source)
        composite = registry.composite(first.role.composite)
    builder = registry.specs
    spec = builder.composite(
        composite,
        {name: source.config for name, source in sources.items()},
        {
            each.name: builder.model(
                each.source.config,
                each.parts,
                each.model.heads,
                each.name,
                each.model.base_model_prefix,
                composite.prefixed,
            )
            for each in (first, second)
        },
        fields,
    )
    matched: dict[str, SourceTensor] = {}
    duplicates: dict[str, tuple[SourceTensor, ...]] = {}
    first, second = (_fit(submodel, spec) for submodel in (first, second))
    for submodel in (first, second):
        own, match = _submodel_params(spec, submodel.name), submodel.source.key_match
        for name, stored in match.matched.items() if not submodel.random else ():
            matched[own[name].name] = stored
            duplicates[own[name].name] = tuple(
                duplicate for by, duplicate in match.duplicates.get(name, ()) if by in own
            )
    return EncoderDecoderPair(composite, (first, second), spec, matched, duplicates)


def _submodel(name: str, role: str, source: SourceModel, random: bool) -> Submodel:
    role_unsupported_reasons(source.config, role)  # raises if it does not have the role
    model, parts = submodel_class(source.config, role)
    return Submodel(name, source, source.architecture.roles[role], model, parts, random)


def _submodel_params(spec: ModelSpec, submodel: str) -> dict[str, ParamSpec]:
    """Return the composite's parameters of one submodel, by their names in the submodel."""
    prefix = f"{submodel}."
    return {
        param.name.removeprefix(prefix): param
        for param in spec.params
        if param.name.startswith(prefix)
    }


def _fit(submodel: Submodel, spec: ModelSpec) -> Submodel:
    """Return the submodel with the values of the composite only; all others are ignored.

    Raise MatchError if the source does not fit its mapping table and configuration.
    """
    if submodel.random:
        return submodel
    own = _submodel_params(spec, submodel.name)
    source = move_tied_values(submodel.source, own)
    source = ignore_other_params(source, own, submodel.model.name, any_head_shape=True)
    params = [
        replace(param, tied_to=own[param.name].tied_to)
        for param in source.spec.params
        if param.name in own
    ]
    optional = (*submodel.parts, *submodel.model.heads)
    source.key_match.require(required_params(params, source.key_match.matched, optional))
    return replace(submodel, source=source)


def _check_widths(encoder: SourceModel, decoder: SourceModel) -> None:
    """Raise UnsupportedError for a decoder that expects another width of the encoder.

    The frameworks accept this field and fail at the first forward pass, unless the decoder's
    architecture makes its cross-attention as wide.
    """
    field = "cross_attention_hidden_size"
    width = decoder.config.raw.get(field)
    is_used = field in decoder.architecture.config and width == encoder.config.attribute("width")
    if width is not None and not is_used:
        raise UnsupportedError(
            f"{decoder.config.file}: cross_attention_hidden_size is {width!r}, which keeps the "
            "frameworks from joining the two widths",
            remedy="Clear it: --set decoder.cross_attention_hidden_size=null.",
        )


def ignored_bias_warnings(pair: EncoderDecoderPair) -> Iterator[str]:
    """Yield each part that the composite lacks, that zeros would replace, and that is not zero.

    Such a part, a bias of the output, changes what the source computes. Reads its values.
    """
    for submodel in pair.submodels:
        source, match = submodel.source, submodel.source.key_match
        own = [p for p in source.spec.params if p.part in source.architecture.parts]
        needed = {p.part for p in own if (p.rule, p.scale) != ("constant", 0)} | {*submodel.parts}
        biases = {p.name for p in own if p.part not in needed}
        index = source.spec.index(match.dialect) if biases and not submodel.random else {}
        for stored in match.ignored if index else ():
            param = index.get(match.normalizer.normalize(stored) or "")
            tensor = source.checkpoint.tensors.get(stored)
            if param and tensor and param.name in biases and _has_values(tensor):
                yield (
                    f"{submodel.name}: {stored} is not zero, and {submodel.model.name} has no "
                    f"{param.part}: without it the model computes other values"
                )


def _has_values(tensor: StoredTensor) -> bool:
    """Return whether a tensor has a value other than zero; reads a part at a time."""
    *outer, length = tensor.spec.shape or (1,)
    step = max(1, (1 << 20) // max(1, prod(outer)))
    parts = ((start, min(start + step, length)) for start in range(0, length, step))
    return any(tensor.read(len(outer), *part).any() for part in parts)


def add_joint_weights(pair: EncoderDecoderPair, stack: ExitStack) -> EncoderDecoderPair:
    """Return the pair with the tensors that `split` wrote next to both, if there are any.

    That is a projection, or what only a closed composite has, of the layers that are selected.
    The `stack` keeps its file open. Raise FormatError if a tensor is missing in it or has another
    shape.
    """
    params = list[tuple[ParamSpec, str]]()
    for param in pair.spec.params:
        submodel = next((s for s in pair.submodels if param.name.startswith(f"{s.name}.")), None)
        if submodel is None:
            params.append((param, param.canonical.name))
        elif pair.composite.closed and not (
            param.tied_to or param.name in pair.matched or submodel.random
        ):
            own = param.name.removeprefix(f"{submodel.name}.")
            before = name_before_selection(own, submodel.source)
            params.append((param, param.canonical.name.removesuffix(own) + before))
    checkpoints = [submodel.source.checkpoint for submodel in pair.submodels]
    path = checkpoints[0].directory.resolve().parent / JOINT_WEIGHTS
    if not params or not path.is_file() or not split_manifest(*checkpoints):
        return pair
    joint = _read_joint(path, params, stack)
    return replace(pair, matched={**pair.matched, **joint})


def split_manifest(encoder: Checkpoint, decoder: Checkpoint) -> Mapping[str, Any]:
    """Return the manifest of the `split` that wrote both directories, empty if none did."""
    path = encoder.directory.resolve().parent / MANIFEST
    if encoder.source.parent != decoder.source.parent or not path.is_file():
        return {}
    try:
        manifest = read_json_object(path)
    except ConverterError:
        return {}
    return manifest if manifest.get("command") == "split" else {}


def _read_joint(
    path: Path, params: Sequence[tuple[ParamSpec, str]], stack: ExitStack
) -> dict[str, SourceTensor]:
    """Return canonical name → the tensor in the file, given each parameter's name there."""
    reader = stack.enter_context(open_file(path))
    matched, problems = {}, []
    for param, name in params:
        layout = param.canonical
        tensor = reader.tensors.get(name)
        if tensor is None or tensor.spec.shape != layout.shape:
            problems.append(
                Problem(
                    "does not fit the two submodels",
                    str(path),
                    name,
                    expected=str(list(layout.shape)),
                    found=str(list(tensor.spec.shape)) if tensor else "nothing",
                )
            )
            continue
        rearrangement = Rearrangement(layout.axes, layout.axes)
        matched[param.name] = SourceTensor(JOINT, tensor, rearrangement)
    if problems:
        remedy = f"Without {JOINT_WEIGHTS} there, they are newly initialized."
        raise FormatError(f"{path}: does not fit what is composed", problems, remedy=remedy)
    return matched

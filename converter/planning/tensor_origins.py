"""The origin of each tensor of an output: copied, resized, or newly initialized by a rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from converter.architectures.model_spec import ModelSpec, ParamSpec
from converter.architectures.schema import CROSS_ATTENTION, Architecture, CrossAttentionInitRules
from converter.errors import UnsupportedError
from converter.initializers import COMPUTED, RULES, Initializer
from converter.options import InitRule
from converter.plan import InitializedTensor, ResizedTensor, SourceTensor, TargetTensor
from converter.tensors import FLOATING, TensorSpec

RANDOM_RULES = tuple(rule for rule in RULES if rule not in ("constant", *COMPUTED))

COMPUTED_REASON = "a constant, which is computed"


@dataclass(frozen=True)
class InitOverride:
    """How one tensor is newly initialized, if not by the rule of its mapping table."""

    rule: str
    scale: float
    reason: str | None = None
    """Why, in addition to why it is newly initialized."""


def plan_tensors(
    spec: ModelSpec,
    matched: Mapping[str, SourceTensor],
    duplicates: Mapping[str, Sequence[SourceTensor]],
    *,
    reasons: Mapping[str, str],
    init_dtype: Callable[[ParamSpec], str],
    dtype: str,
    seed: int,
    overrides: Mapping[str, InitOverride] = MappingProxyType({}),
    new_rows: str = "mean",
) -> list[TargetTensor]:
    """Return every tensor of `spec` that has values of its own, with its origin.

    `matched`, `duplicates` and `overrides` are by canonical name, `reasons` by part. With the
    `dtype` ``keep``, new tensors have that of `init_dtype`. New rows of a resized tensor are the
    ``mean`` of the others, or follow the rule of its mapping table (``normal``).
    """
    tensors = []
    for param in spec.params:
        if param.tied_to:
            continue
        stored = matched.get(param.name)
        original = stored.tensor.spec.dtype if stored else param.dtype or init_dtype(param)
        target = TensorSpec(
            param.name,
            original if dtype == "keep" or original not in FLOATING else dtype,
            param.canonical.shape,
        )
        default = Initializer(param.rule, param.scale, seed, param.name)
        if stored is None:
            override = overrides.get(param.name, InitOverride(param.rule, param.scale))
            initializer = replace(default, rule=override.rule, scale=override.scale)
            reason = COMPUTED_REASON if param.rule in COMPUTED else reasons[param.part]
            if override.reason:
                reason = f"{reason}; {override.reason}"
            tensors.append(TargetTensor(target, InitializedTensor(initializer, reason)))
        elif stored.rearrangement.shape(stored.tensor.spec.shape) == target.shape:
            tensors.append(TargetTensor(target, stored, tuple(duplicates.get(param.name, ()))))
        else:
            rows = default if new_rows == "normal" else None
            resized = ResizedTensor(stored.source, stored.tensor, stored.rearrangement, rows)
            tensors.append(TargetTensor(target, resized))
    return tensors


@dataclass(frozen=True)
class CrossAttentionInit:
    """How new tensors of cross-attention are initialized, if not by their mapping table."""

    overrides: Mapping[str, InitOverride] = field(default_factory=dict)
    """Canonical name → how it is initialized."""
    copied: Mapping[str, SourceTensor] = field(default_factory=dict)
    """Canonical name → the tensor that it is a copy of."""
    notes: tuple[str, ...] = ()


def init_cross_attention(
    init: InitRule, spec: ModelSpec, decoder: Architecture, matched: Mapping[str, SourceTensor]
) -> CrossAttentionInit:
    """Return how new cross-attention is initialized by the rule `init`, ``normal`` as in the table.

    The `matched` tensors of the complete model are by canonical name. Raise UnsupportedError if the
    mapping table of the decoder lacks what the rule needs.
    """
    new = [
        param
        for param in spec.params
        if param.part == CROSS_ATTENTION and not param.tied_to and param.name not in matched
    ]
    if init == "normal":
        return CrossAttentionInit()
    if not new:
        return CrossAttentionInit(notes=(f"init {init} has no effect: no cross-attention is new",))
    if init == "truncated-normal":
        return CrossAttentionInit(
            {p.name: InitOverride(init, p.scale) for p in new if p.rule in RANDOM_RULES}
        )
    if init == "xavier":
        return CrossAttentionInit({p.name: _xavier(p) for p in new if p.rule in RANDOM_RULES})
    if decoder.cross_attention_init is None:
        raise UnsupportedError(
            f"{decoder.name}: its mapping table has no [cross_attention_init], for --init {init}",
            remedy="Write it, see docs/mapping-tables.md, or choose another --init.",
        )
    if init == "zero-output":
        return _zero_output(new, decoder, decoder.cross_attention_init)
    return _self_attention_copy(new, spec, matched, decoder.cross_attention_init)


def _xavier(param: ParamSpec) -> InitOverride:
    """Return uniform within ±√(6 / (fan in + fan out)), for matrices (Glorot and Bengio 2010)."""
    shape = param.canonical.shape
    if len(shape) < 2:
        return InitOverride(param.rule, param.scale)
    field_size = math.prod(shape[2:])
    return InitOverride("uniform", math.sqrt(6 / ((shape[0] + shape[1]) * field_size)))


def _zero_output(
    new: list[ParamSpec], decoder: Architecture, table: CrossAttentionInitRules
) -> CrossAttentionInit:
    """Return zeros for the last module of the branch, so that the branch adds nothing at first."""
    zero = InitOverride("constant", 0.0)
    overrides = {param.name: zero for param in new if table.is_output(param.name)}
    if table.norm == "pre":
        return CrossAttentionInit(overrides)
    return CrossAttentionInit(
        overrides,
        notes=(
            f"zero-output: {decoder.name} normalizes the sum again after cross-attention, so that "
            "the decoder starts close to the language model it was, but not equal to it",
        ),
    )


def _self_attention_copy(
    new: list[ParamSpec],
    spec: ModelSpec,
    matched: Mapping[str, SourceTensor],
    table: CrossAttentionInitRules,
) -> CrossAttentionInit:
    """Return a copy of the self-attention's tensor for each; the reason where shapes differ."""
    overrides, copied = {}, {}
    for param in new:
        name = table.counterpart(param.name)
        twin = spec.resolve(spec.by_name[name]) if name in spec.by_name else None
        stored = matched.get(twin.name) if twin else None
        if stored is None or twin is None:
            why = "has no counterpart" if twin is None else "its counterpart is newly initialized"
        elif twin.canonical.shape != param.canonical.shape:
            shapes = (list(each.canonical.shape) for each in (param, twin))
            why = "its shape {} is not its counterpart's {}".format(*shapes)
        else:
            copied[param.name] = stored
            continue
        overrides[param.name] = InitOverride(
            param.rule, param.scale, f"cannot copy the self-attention: {why}"
        )
    notes = (
        f"copy-self-attention: {len(copied)} tensors of cross-attention are copies"
        + (f", {len(overrides)} are newly initialized" if overrides else ""),
    )
    return CrossAttentionInit(overrides, copied, notes)

"""Initialization of cross-attention that no source has: by a rule, zero, or as a copy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from converter.architectures.model_spec import ModelSpec, ParamSpec
from converter.architectures.schema import CROSS_ATTENTION, Architecture, CrossAttentionInitRules
from converter.errors import UnsupportedError
from converter.options import InitRule
from converter.plan import SourceTensor
from converter.planning.planner import RANDOM_RULES, InitOverride


@dataclass(frozen=True)
class CrossAttentionInit:
    """How new tensors of cross-attention are initialized, if not by their mapping table."""

    overrides: Mapping[str, InitOverride] = field(default_factory=dict)
    """Canonical name → how it is initialized."""
    copied: Mapping[str, SourceTensor] = field(default_factory=dict)
    """Canonical name → the tensor that it is a copy of."""
    notes: tuple[str, ...] = ()
    """What the user should know."""


def init_cross_attention(
    init: InitRule, spec: ModelSpec, decoder: Architecture, matched: Mapping[str, SourceTensor]
) -> CrossAttentionInit:
    """Return how new cross-attention is initialized by the rule `init`.

    Args:
        init: the rule; ``normal`` is the default of the mapping table.
        spec: the complete model.
        decoder: the mapping table of the decoder.
        matched: canonical name → the tensor with its values.

    Raises:
        UnsupportedError: if the mapping table lacks what the rule needs.

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
            f"the mapping table of {decoder.name} has no [cross_attention_init], which {init} needs",
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

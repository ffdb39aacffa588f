"""How cross-attention that no source has begins: drawn by a rule, silent, or as a copy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from converter.architectures.model_spec import ModelSpec, ParamSpec
from converter.architectures.schema import CROSS_ATTENTION, Architecture, CrossAttentionInitRules
from converter.errors import UnsupportedError
from converter.options import InitRule
from converter.planning.tensor_plan import DRAWN, InitOverride, SourceMatch


@dataclass(frozen=True)
class CrossAttentionInit:
    """How the fresh tensors of cross-attention begin, where not as their table says."""

    draws: Mapping[str, InitOverride] = field(default_factory=dict)
    """Canonical name → how it is drawn."""
    copied: Mapping[str, SourceMatch] = field(default_factory=dict)
    """Canonical name → where the values lie that it begins with."""
    notes: tuple[str, ...] = ()
    """What the user should know."""


def init_cross_attention(
    init: InitRule, target: ModelSpec, decoder: Architecture, findings: Mapping[str, SourceMatch]
) -> CrossAttentionInit:
    """How cross-attention begins by the rule `init`.

    Args:
        init: one of `InitRule`; ``normal`` is the default of the table.
        target: the whole model.
        decoder: the table of the decoder.
        findings: canonical name → where its values lie.

    Raises:
        UnsupportedError: if the table does not tell what the rule needs.

    """
    fresh = [
        param for param in target.params if param.part == CROSS_ATTENTION and not param.tied_to
    ]
    fresh = [param for param in fresh if param.name not in findings]
    if init == "normal":
        return CrossAttentionInit()
    if not fresh:
        return CrossAttentionInit(
            notes=(f"init {init} concerns nothing: no cross-attention is fresh",)
        )
    if init == "truncated-normal":
        return CrossAttentionInit(
            {s.name: InitOverride(init, s.scale) for s in fresh if s.rule in DRAWN}
        )
    if init == "xavier":
        return CrossAttentionInit({s.name: _xavier(s) for s in fresh if s.rule in DRAWN})
    if decoder.cross_attention_init is None:
        raise UnsupportedError(
            f"the mapping table of {decoder.name} has no [warm_start], which {init} needs",
            remedy="Write it, see docs/mapping-tables.md, or choose another --init.",
        )
    if init == "zero-output":
        return _silent(fresh, decoder, decoder.cross_attention_init)
    return _copied(fresh, target, findings, decoder.cross_attention_init)


def _xavier(param: ParamSpec) -> InitOverride:
    """Evenly within ±√(6 / (fan in + fan out)), of a matrix (Glorot and Bengio 2010)."""
    shape = param.canonical.shape
    if len(shape) < 2:
        return InitOverride(param.rule, param.scale)
    field_size = math.prod(shape[2:])
    return InitOverride("uniform", math.sqrt(6 / ((shape[0] + shape[1]) * field_size)))


def _silent(
    fresh: list[ParamSpec], decoder: Architecture, table: CrossAttentionInitRules
) -> CrossAttentionInit:
    """The last module of the branch is zero, so that the branch adds nothing at first."""
    zero = InitOverride("constant", 0.0)
    draws = {param.name: zero for param in fresh if table.is_output(param.name)}
    if table.norm == "before":
        return CrossAttentionInit(draws)
    return CrossAttentionInit(
        draws,
        notes=(
            f"zero-output: {decoder.name} normalises the sum once more after cross-attention, so "
            "that its decoder begins near to, but not as, the language model that it was",
        ),
    )


def _copied(
    fresh: list[ParamSpec],
    target: ModelSpec,
    findings: Mapping[str, SourceMatch],
    table: CrossAttentionInitRules,
) -> CrossAttentionInit:
    """Each tensor begins as that of the self-attention; where it cannot, that is told."""
    draws, copied = {}, {}
    for param in fresh:
        name = table.counterpart(param.name)
        twin = target.resolve(target.by_name[name]) if name in target.by_name else None
        found = findings.get(twin.name) if twin else None
        if found is None or twin is None:
            why = "has no counterpart" if twin is None else "its counterpart is drawn anew"
        elif twin.canonical.shape != param.canonical.shape:
            shapes = (list(each.canonical.shape) for each in (param, twin))
            why = "its shape {} is not its counterpart's {}".format(*shapes)
        else:
            copied[param.name] = SourceMatch(found.stored)
            continue
        draws[param.name] = InitOverride(
            param.rule, param.scale, f"cannot copy the self-attention: {why}"
        )
    notes = (
        f"copy-self-attention: {len(copied)} tensors of cross-attention begin as copies"
        + (f", {len(draws)} cannot and are drawn anew" if draws else ""),
    )
    return CrossAttentionInit(draws, copied, notes)

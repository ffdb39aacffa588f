"""From a blueprint and what was found to planned tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from converter.architectures.model_spec import ModelSpec, ParamSpec
from converter.initializers import COMPUTED, RULES, Initializer
from converter.plan import InitializedTensor, ResizedTensor, SourceTensor, TargetTensor
from converter.tensors import TensorSpec
from converter.tensors.spec import FLOATING

DRAWN = tuple(rule for rule in RULES if rule not in ("constant", *COMPUTED))

COMPUTED_REASON = "a fixed table, which is computed"


@dataclass(frozen=True)
class SourceMatch:
    """What is known of the values of one target tensor."""

    stored: SourceTensor
    copies: tuple[SourceTensor, ...] = ()


@dataclass(frozen=True)
class InitOverride:
    """How one tensor is drawn anew, where not as its table says."""

    rule: str
    scale: float
    reason: str | None = None
    """Why so, if there is more to say than why it is drawn anew at all."""


def plan_tensors(
    target: ModelSpec,
    findings: Mapping[str, SourceMatch],
    reasons: Mapping[str, str],
    fresh_dtype: Callable[[ParamSpec], str],
    *,
    dtype: str,
    seed: int,
    draws: Mapping[str, InitOverride] = MappingProxyType({}),
    new_rows: str = "mean",
) -> list[TargetTensor]:
    """Every tensor of `target` that has values of its own, with its origin.

    Args:
        target: the model to be written.
        findings: canonical name → where its values lie.
        reasons: part → why its tensors are drawn anew.
        fresh_dtype: the dtype of a tensor that is drawn anew, if `dtype` keeps.
        dtype: ``keep``, or the dtype that floating-point tensors are cast to.
        seed: of the fresh weights.
        draws: canonical name → how it is drawn, where not as its table says.
        new_rows: what the rows are that a tensor has too few of: the ``mean`` of the others, or
            drawn as its table says (``normal``).

    """
    planned = []
    for param in target.params:
        if param.tied_to:
            continue
        finding = findings.get(param.name)
        kept = finding.stored.tensor.spec.dtype if finding else param.dtype or fresh_dtype(param)
        spec = TensorSpec(
            param.name,
            kept if dtype == "keep" or kept not in FLOATING else dtype,
            param.canonical.shape,
        )
        if finding and _shape(finding.stored) != param.canonical.shape:
            planned.append(TargetTensor(spec, _resized(finding.stored, param, seed, new_rows)))
        elif finding:
            planned.append(TargetTensor(spec, finding.stored, finding.copies))
        else:
            draw = draws.get(param.name, InitOverride(param.rule, param.scale))
            initializer = Initializer(draw.rule, draw.scale, seed, param.name)
            reason = COMPUTED_REASON if param.rule in COMPUTED else reasons[param.part]
            if draw.reason:
                reason = f"{reason}; {draw.reason}"
            planned.append(TargetTensor(spec, InitializedTensor(initializer, reason)))
    return planned


def _shape(stored: SourceTensor) -> tuple[int, ...]:
    """The shape of stored values in PyTorch's layout."""
    return stored.rearrangement.shape(stored.tensor.spec.shape)


def _resized(stored: SourceTensor, param: ParamSpec, seed: int, new_rows: str) -> ResizedTensor:
    drawn = Initializer(param.rule, param.scale, seed, param.name) if new_rows == "normal" else None
    return ResizedTensor(stored.source, stored.tensor, stored.rearrangement, drawn)

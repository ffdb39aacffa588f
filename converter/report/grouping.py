"""Many tensors in few lines: layers folded, and the leaves of one module together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from converter.name_ranges import collapse_ranges, split_layer_index
from converter.plan import InitializedTensor, SourceTensor, TargetTensor


def collapse_params(names: Iterable[str]) -> list[str]:
    """``decoder.h.{0…11}.ln_cross_attn.{weight,bias}`` instead of twenty-four names."""
    leaves: dict[str, list[str]] = {}
    for name in names:
        module, _, leaf = name.rpartition(".")
        leaves.setdefault(module, []).append(leaf)
    together: dict[tuple[str, ...], list[str]] = {}
    for module, found in leaves.items():
        together.setdefault(tuple(dict.fromkeys(found)), []).append(module)
    folded = {module: leaf for leaf, group in together.items() for module in collapse_ranges(group)}
    return [
        ".".join(part for part in (module, _either(leaf)) if part)
        for module, leaf in folded.items()
    ]


def _either(leaves: Sequence[str]) -> str:
    return leaves[0] if len(leaves) == 1 else "{" + ",".join(leaves) + "}"


def by_reason(reasons: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Reason → the folded names that it is given for, from pairs of name and reason."""
    found: dict[str, list[str]] = {}
    for name, reason in reasons:
        found.setdefault(reason, []).append(name)
    return {reason: collapse_ranges(names) for reason, names in found.items()}


def group_similar(tensors: Iterable[TargetTensor]) -> list[list[TargetTensor]]:
    """Planned tensors that differ only in the number of their layer, together."""
    groups: dict[tuple[object, ...], list[TargetTensor]] = {}
    for tensor in tensors:
        groups.setdefault(_likeness(tensor), []).append(tensor)
    return list(groups.values())


def _likeness(tensor: TargetTensor) -> tuple[object, ...]:
    """What tensors of one group have in common."""
    spec, origin = tensor.spec, tensor.origin
    head, number, tail = split_layer_index(spec.name)
    if isinstance(origin, InitializedTensor):
        drawn = origin.initializer
        return head, tail, spec.dtype, spec.shape, drawn.rule, drawn.scale, origin.reason
    stored = origin.tensor.spec
    key_head, key_number, key_tail = split_layer_index(stored.name)
    if key_number != number:  # layers that change places must not look as if they stayed
        return (spec.name,)
    place = (key_head, key_tail, origin.source, origin.tensor.path)
    return head, tail, spec.dtype, spec.shape, stored.dtype, origin.rearrangement, place


def describe_source(group: Sequence[TargetTensor]) -> str:
    """Where the values of a group of like tensors come from."""
    origin = group[0].origin
    if isinstance(origin, InitializedTensor):
        drawn = origin.initializer
        rule = f"{drawn.scale:g}" if drawn.rule == "constant" else f"{drawn.rule}({drawn.scale:g})"
        return f"{rule}, seed {drawn.seed}" if drawn.rule != "constant" else rule
    keys = collapse_ranges(
        tensor.origin.tensor.spec.name
        for tensor in group
        if isinstance(tensor.origin, SourceTensor)
    )
    return f"{origin.source} {origin.tensor.path.name}: {', '.join(keys)}"


def describe_change(tensor: TargetTensor) -> str:
    """What happens to the values of a tensor on their way."""
    origin = tensor.origin
    if isinstance(origin, InitializedTensor):
        return origin.reason
    done = [] if origin.rearrangement.keeps_bytes else [str(origin.rearrangement)]
    stored = origin.tensor.spec.dtype
    if stored != tensor.spec.dtype:
        done.append(f"{stored} → {tensor.spec.dtype}")
    if tensor.copies:
        done.append(f"compared with {len(tensor.copies)} more")
    return ", ".join(done) or "as it is"

"""What a checkpoint is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from converter.folding import fold, numbered
from converter.report.names import by_reason
from converter.report.text import count, heading, indented, line, render, shape, size, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from converter.inspection import Inspection


def describe_inspection(inspection: Inspection, *, tensors: bool = False) -> str:
    """The report of ``converter inspect``; with `tensors`, every tensor, layers folded."""
    return render(_parts(inspection, tensors))


def _parts(inspection: Inspection, tensors: bool) -> Iterator[RenderableType]:
    checkpoint, model = inspection.checkpoint, inspection.model
    specs = [tensor.spec for tensor in checkpoint.tensors.values()]
    yield line(f"{checkpoint.reference}: {model.name}", "bold")
    yield indented(table(_facts(inspection)))
    yield line(
        f"\n{count(len(specs), 'tensor')}, {count(sum(spec.size for spec in specs), 'parameter')}, "
        f"{size(sum(spec.nbytes for spec in specs))}: "
        + ", ".join(f"{number:,} {dtype}" for dtype, number in _dtypes(inspection).items())
    )
    yield from _faults(inspection)
    dropped = by_reason(model.report.dropped.items())
    if dropped:
        yield heading("Left out")
        yield indented(table((", ".join(names), reason) for reason, names in dropped.items()))
    if tensors:
        yield heading("Tensors")
        measured = ("min", "max", "mean", "std") if inspection.statistics else ()
        header = ("tensor", "shape", "dtype", "size", "stored as", *measured)
        yield indented(table(_tensor_rows(inspection), header=header, right=[3, 5, 6, 7, 8]))


def _facts(inspection: Inspection) -> Iterator[tuple[str, str]]:
    checkpoint, model = inspection.checkpoint, inspection.model
    yield "family", checkpoint.family
    for half in model.halves:
        yield half, model.configs[half].family.name
    if inspection.roles:
        yield "can be", " or ".join(inspection.roles)
    for path, nbytes in checkpoint.sizes.items():
        yield "file", f"{path.name}, {size(nbytes)}"
    if checkpoint.others:
        yield "not looked at", ", ".join(checkpoint.others)
    yield "format", f"{checkpoint.container}, {model.report.dialect} names"
    yield "converts to", ", ".join(inspection.frameworks)
    for framework, reason in model.obstacles.items():
        yield f"not {framework}", reason
    for note in model.notes:
        yield "note", note


def _dtypes(inspection: Inspection) -> Counter[str]:
    return Counter(tensor.spec.dtype for tensor in inspection.checkpoint.tensors.values())


def _faults(inspection: Inspection) -> Iterator[RenderableType]:
    problems = inspection.model.report.problems(inspection.model.required)
    if not problems:
        yield line("Every tensor is accounted for.", "green")
        return
    yield heading("It does not fit its configuration and mapping table")
    rows = [
        (
            problem.what,
            problem.tensor or "",
            f"expected {problem.expected}, found {problem.found}" if problem.expected else "",
        )
        for problem in problems
    ]
    yield indented(table(rows))


def _tensor_rows(inspection: Inspection) -> Iterator[tuple[str, ...]]:
    """The matched tensors in the order of the model, those of like layers in one row."""
    matched = inspection.model.report.matched
    ordered = dict.fromkeys((*inspection.model.target.by_name, *matched))
    groups: dict[tuple[object, ...], list[str]] = {}
    for name in ordered:
        if name in matched:
            spec = matched[name].tensor.spec
            head, _, tail = numbered(name)
            groups.setdefault((head, tail, spec.shape, spec.dtype), []).append(name)
    for names in groups.values():
        specs = [matched[name].tensor.spec for name in names]
        yield (
            ", ".join(fold(names)),
            shape(specs[0].shape),
            specs[0].dtype,
            size(sum(spec.nbytes for spec in specs)),
            ", ".join(fold(spec.name for spec in specs)),
            *_measured(inspection, names),
        )


def _measured(inspection: Inspection, names: list[str]) -> Iterator[str]:
    """The statistics of some tensors together."""
    if not inspection.statistics:
        return
    total = inspection.statistics[names[0]]
    for name in names[1:]:
        total += inspection.statistics[name]
    for value in (total.minimum, total.maximum, total.mean, total.deviation):
        yield f"{value:.4g}"

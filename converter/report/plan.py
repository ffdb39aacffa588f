"""A plan, complete: every tensor with its origin, every file with its size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from converter.folding import fold
from converter.manifest import MANIFEST
from converter.report.names import alike, how, where
from converter.report.result import dropped_parts, tally
from converter.report.text import heading, indented, line, render, shape, size, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from converter.composition.production import Result


def describe_plan(result: Result) -> str:
    """What ``--dry-run`` prints."""
    return render(_parts(result))


def _parts(result: Result) -> Iterator[RenderableType]:
    plan = result.plan
    yield line(f"{result.output}: planned, nothing was written", "bold")
    yield heading(tally(plan.tensors))
    rows = []
    for group in alike(plan.tensors):
        first = group[0]
        name = ", ".join(fold(tensor.spec.name for tensor in group))
        rows.append(
            (name, shape(first.spec.shape), first.spec.dtype, f"← {where(group)}", how(first))
        )
    yield indented(table(rows, header=("tensor", "shape", "dtype", "from", "how")))
    yield from dropped_parts(result)
    yield heading(f"Files, {size(plan.nbytes)} of tensors")
    files = [(file.path, size(file.nbytes), file.container) for file in plan.files]
    files += [(name, size(len(content)), "made") for name, content in plan.documents.items()]
    files += [(name, size(result.sizes[name]), "copied") for name in plan.copied_files]
    files.append((MANIFEST, "", "made"))
    yield indented(table(files, right=[1]))

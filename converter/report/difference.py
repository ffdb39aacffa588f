"""How two checkpoints differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from converter.folding import fold, numbered
from converter.report.names import modules
from converter.report.text import count, heading, indented, line, render, shape, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from converter.proof.comparison import Difference
    from converter.proof.diff import Comparison

HEADER = ("tensor", "differing", "max", "mean", "cosine", "dtypes")
"""Titles of what `rows` gives."""


def describe_comparison(found: Comparison) -> str:
    """The page of ``converter diff``."""
    return render(_parts(found))


def _parts(found: Comparison) -> Iterator[RenderableType]:
    equal = sum(difference.exact for difference in found.differences.values())
    verdict = "equal" if found.equal else "DIFFERENT"
    if found.equal and equal < len(found.differences):
        verdict = f"equal within {found.tolerance:g}"
    what = f", the {found.half} alone" if found.half else ""
    yield line(f"{found.first} and {found.second}{what}: {verdict}", "bold")
    yield indented(
        line(
            f"{count(len(found.differences), 'tensor')} compared, {equal:,} the same bit for bit,"
            f" {len(found.differing):,} differing"
        )
    )
    unequal = {n: d for n, d in found.differences.items() if not d.exact}
    beyond = {n: d for n, d in unequal.items() if n in found.differing}
    within = {n: d for n, d in unequal.items() if n not in found.differing}
    for title, differences in (("Differing", beyond), ("Within the tolerance", within)):
        if differences:
            yield heading(title)
            yield indented(table(rows(differences), header=HEADER, right=[1, 2, 3, 4]))
    for reference, names in ((found.first, found.only_first), (found.second, found.only_second)):
        if names:
            yield heading(f"Only in {reference}")
            yield indented(line("\n".join(modules(names))))
    if found.shapes:
        yield heading("Of different shapes")
        yield indented(table((n, shape(a), shape(b)) for n, (a, b) in found.shapes.items()))
    for reference, names in found.unknown.items():
        if names:
            yield heading(f"Not compared, since no table knows them, in {reference}")
            yield indented(line("\n".join(modules(names))))


def rows(differences: Mapping[str, Difference]) -> Iterator[tuple[str, ...]]:
    """Tensors that differ only in the number of their layer in one row, which states the worst."""
    groups: dict[tuple[object, ...], list[Difference]] = {}
    for name, difference in differences.items():
        head, _, tail = numbered(name)
        groups.setdefault((head, tail, difference.dtypes), []).append(difference)
    for group in groups.values():
        elements = sum(each.elements for each in group)
        differing = sum(each.differing for each in group)
        mean = sum(each.mean_abs * each.elements for each in group) / max(1, elements)
        cosines = [each.cosine for each in group if not math.isnan(each.cosine)]
        yield (
            ", ".join(fold(each.name for each in group)),
            f"{differing:,} of {elements:,}",
            f"{max(each.max_abs for each in group):.3g}",
            f"{mean:.3g}",
            f"{min(cosines):.6f}" if cosines else "–",
            " and ".join(dict.fromkeys(group[0].dtypes)),
        )

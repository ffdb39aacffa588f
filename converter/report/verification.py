"""The terminal reports of ``converter verify`` and ``converter diff``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from converter.errors import Problem
from converter.report.terminal_text import (
    MAX_LISTED,
    Part,
    bounded,
    collapse_params,
    count,
    group_layers,
    heading,
    indented,
    line,
    lines,
    more_lines,
    render,
    rendered,
    shape,
    table,
)
from converter.text import collapse_ranges, inline

if TYPE_CHECKING:
    from converter.commands.diff import Comparison
    from converter.verification.result import Difference, Verification


HEADER = ("tensor", "differing", "max", "mean", "cosine", "dtypes")
"""Titles of the columns of `difference_rows`."""


def summarize_comparison(result: Comparison) -> tuple[str, str]:
    """Return the verdict, and the number of tensors that are equal and that differ."""
    equal = sum(difference.exact for difference in result.differences.values())
    verdict = "equal" if result.equal else "DIFFERENT"
    if result.equal and equal < len(result.differences):
        verdict = f"equal within {result.tolerance:g}"
    what = f", only the {result.submodel}" if result.submodel else ""
    compared = f"{count(len(result.differences), 'tensor')} compared"
    counts = f"{equal:,} the same bit for bit, {len(result.differing):,} differing"
    return f"{result.first} and {result.second}{what}: {verdict}", f"{compared}, {counts}"


@rendered
def describe_comparison(result: Comparison) -> Iterator[Part]:
    """Return the report of ``converter diff``."""
    title, counts = summarize_comparison(result)
    yield line(title, "bold")
    yield indented(line(counts))
    differing = result.differing
    within = {n: d for n, d in result.differences.items() if not d.exact and n not in differing}
    for title, differences in (("Differing", differing), ("Within the tolerance", within)):
        if differences:
            yield heading(title)
            rows = list(difference_rows(differences))
            yield indented(table(rows[:MAX_LISTED], header=HEADER, right=[1, 2, 3, 4]))
            yield from more_lines(len(rows))
    yield from _listed(f"Only in {result.first}", result.only_first)
    yield from _listed(f"Only in {result.second}", result.only_second)
    if result.shapes:
        yield heading("Of different shapes")
        shapes = [(n, shape(a), shape(b)) for n, (a, b) in result.shapes.items()]
        yield indented(table(shapes[:MAX_LISTED]))
        yield from more_lines(len(shapes))
    for reference, names in result.unknown.items():
        yield from _listed(f"Not compared, not in the mapping table, in {reference}", names)


def _listed(title: str, names: Sequence[str]) -> Iterator[Part]:
    if names:
        yield heading(title)
        yield indented(lines(bounded(collapse_params(names))))


def difference_rows(differences: Mapping[str, Difference]) -> Iterator[tuple[str, ...]]:
    """Yield a row per tensor, layers collapsed to one row with the largest difference."""
    for group in group_layers(differences.values(), lambda each: (each.name, each.dtypes)):
        elements = sum(each.elements for each in group)
        differing = sum(each.differing for each in group)
        mean = sum(each.mean_abs * each.elements for each in group) / max(1, elements)
        cosines = [each.cosine for each in group if not math.isnan(each.cosine)]
        yield (
            ", ".join(collapse_ranges(each.name for each in group)),
            f"{differing:,} of {elements:,}",
            f"{max(each.max_abs for each in group):.3g}",
            f"{mean:.3g}",
            f"{min(cosines):.6f}" if cosines else "–",
            " and ".join(dict.fromkeys(group[0].dtypes)),
        )


def describe_verification(verification: Verification, stream: Any = None) -> str:
    """Return the report of ``converter verify`` for `stream` (default: stdout)."""
    return render(_verification(verification), stream)


def _verification(result: Verification) -> Iterator[Part]:
    if result.verified:
        yield line(f"{result.directory}: verified", "bold green")
    else:
        number = count(len(result.problems), "problem")
        yield line(f"{result.directory}: NOT verified, {number}", "bold red")
    yield indented(table(result.checks.items()))
    problems = merge_layers(result.problems)
    if problems:
        yield heading("What is wrong")
        for problem in problems[:MAX_LISTED]:
            yield indented(line(f"- {problem}"))
        yield from more_lines(len(problems))
    if result.origins:
        yield heading("Where the values come from")
        yield indented(table(origin_rows(result)))
    if result.notes:
        yield heading("Notes")
        for note in result.notes:
            yield indented(line(f"- {note}"))


def origin_rows(result: Verification) -> Iterator[tuple[str, str]]:
    """Yield each source and verdict, with the collapsed names."""
    groups: dict[str, list[str]] = {}
    for name, origin in result.origins.items():
        verdict = f"{origin.verdict} to {origin.source}"
        if origin.verdict != "equal":
            verdict = "initialized" if origin.source is None else f"differs from {origin.source}"
        groups.setdefault(verdict, []).append(name)
    few = 4
    for verdict, names in groups.items():
        shown = collapse_params(names)
        if verdict.startswith("equal") and len(shown) > few:
            shown[few - 1 :] = [f"{shown[few - 1]} …"]
        yield verdict, f"{count(len(names), 'tensor')}: {inline(shown)}"


def merge_layers(problems: Sequence[Problem]) -> list[Problem]:
    """Merge problems that differ only in the layer index."""
    merged = []
    for group in group_layers(problems, lambda p: (p.tensor or "", p.file, p.what, p.remedy)):
        first = group[0]
        if len(group) > 1:
            (name, *_) = collapse_ranges(problem.tensor or "" for problem in group)
            expected = collapse_ranges(problem.expected or "" for problem in group)
            common = expected[0] or None if len(expected) == 1 else None
            first = Problem(first.what, first.file, name, common, remedy=first.remedy)
        merged.append(first)
    return merged

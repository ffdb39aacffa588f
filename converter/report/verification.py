"""How two checkpoints differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from converter.name_ranges import collapse_ranges, split_layer_index
from converter.report.grouping import collapse_params
from converter.report.rich_text import count, heading, indented, line, render, shape, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from converter.commands.diff import Comparison
    from converter.verification.comparison import Difference

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from converter.errors import Problem

if TYPE_CHECKING:
    from rich.console import RenderableType

    from converter.verification.result import Verification


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
    what = f", the {found.submodel} alone" if found.submodel else ""
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
            yield indented(line("\n".join(collapse_params(names))))
    if found.shapes:
        yield heading("Of different shapes")
        yield indented(table((n, shape(a), shape(b)) for n, (a, b) in found.shapes.items()))
    for reference, names in found.unknown.items():
        if names:
            yield heading(f"Not compared, since no table knows them, in {reference}")
            yield indented(line("\n".join(collapse_params(names))))


def rows(differences: Mapping[str, Difference]) -> Iterator[tuple[str, ...]]:
    """Tensors that differ only in the number of their layer in one row, which states the worst."""
    groups: dict[tuple[object, ...], list[Difference]] = {}
    for name, difference in differences.items():
        head, _, tail = split_layer_index(name)
        groups.setdefault((head, tail, difference.dtypes), []).append(difference)
    for group in groups.values():
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


MAX_PROBLEMS = 60
"""Problems that are printed, once folded; ``--json`` has all."""


def describe_verification(found: Verification, stream: Any = None) -> str:
    """The page of ``converter verify``, for `stream`: standard output unless given."""
    return render(_parts_verification(found), stream)


def _parts_verification(found: Verification) -> Iterator[RenderableType]:
    if found.verified:
        yield line(f"{found.directory}: verified", "bold green")
    else:
        number = count(len(found.problems), "problem")
        yield line(f"{found.directory}: NOT verified, {number}", "bold red")
    yield indented(table(found.checks.items()))
    problems = merge_layers(found.problems)
    if problems:
        yield heading("What is wrong")
        for problem in problems[:MAX_PROBLEMS]:
            yield indented(line(f"- {problem}"))
        if len(problems) > MAX_PROBLEMS:
            yield indented(line(f"… and {len(problems) - MAX_PROBLEMS} more; --json lists all"))
    if found.origins:
        yield heading("Where the values come from")
        yield indented(table(_origins(found)))
    if found.notes:
        yield heading("Notes")
        for note in found.notes:
            yield indented(line(f"- {note}"))


def _origins(found: Verification) -> Iterator[tuple[str, str]]:
    """Source and verdict, and the folded names that they are true of."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, origin in found.origins.items():
        verdict = f"{origin.verdict} to {origin.source}"
        if origin.verdict != "equal":
            verdict = "fresh" if origin.source is None else f"not as in {origin.source}"
        submodel, _, _ = name.partition(".")
        groups.setdefault((verdict, submodel), []).append(name)
    few = 4
    for (verdict, _), names in groups.items():
        shown = collapse_params(names)
        if verdict.startswith("equal") and len(shown) > few:
            yield verdict, f"{count(len(names), 'tensor')}: {', '.join(shown[:few])} …"
        else:
            yield verdict, f"{count(len(names), 'tensor')}: {', '.join(shown)}"


def merge_layers(problems: Sequence[Problem]) -> list[Problem]:
    """One for those that differ in nothing but the number of the layer."""
    groups: dict[tuple[object, ...], list[Problem]] = {}
    for problem in problems:
        head, _, tail = split_layer_index(problem.tensor or "")
        key = (problem.file, problem.what, head, tail, problem.remedy)
        groups.setdefault(key, []).append(problem)
    found = []
    for group in groups.values():
        first = group[0]
        if len(group) > 1:
            (name, *_) = collapse_ranges(problem.tensor or "" for problem in group)
            expected = collapse_ranges(problem.expected or "" for problem in group)
            alike = expected[0] or None if len(expected) == 1 else None
            first = Problem(first.what, first.file, name, alike, remedy=first.remedy)
        found.append(first)
    return found

"""What was proven of a checkpoint, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from converter.errors import Problem
from converter.folding import fold, numbered
from converter.report.names import modules
from converter.report.text import count, heading, indented, line, render, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from converter.proof.verification import Verification

MAX_PROBLEMS = 60
"""Problems that are printed, once folded; ``--json`` has all."""


def describe_verification(found: Verification, stream: Any = None) -> str:
    """The page of ``converter verify``, for `stream`: standard output unless given."""
    return render(_parts(found), stream)


def _parts(found: Verification) -> Iterator[RenderableType]:
    if found.verified:
        yield line(f"{found.directory}: verified", "bold green")
    else:
        number = count(len(found.problems), "problem")
        yield line(f"{found.directory}: NOT verified, {number}", "bold red")
    yield indented(table(found.checks.items()))
    problems = folded(found.problems)
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
        half, _, _ = name.partition(".")
        groups.setdefault((verdict, half), []).append(name)
    few = 4
    for (verdict, _), names in groups.items():
        shown = modules(names)
        if verdict.startswith("equal") and len(shown) > few:
            yield verdict, f"{count(len(names), 'tensor')}: {', '.join(shown[:few])} …"
        else:
            yield verdict, f"{count(len(names), 'tensor')}: {', '.join(shown)}"


def folded(problems: Sequence[Problem]) -> list[Problem]:
    """One for those that differ in nothing but the number of the layer."""
    groups: dict[tuple[object, ...], list[Problem]] = {}
    for problem in problems:
        head, _, tail = numbered(problem.tensor or "")
        key = (problem.file, problem.what, head, tail, problem.remedy)
        groups.setdefault(key, []).append(problem)
    found = []
    for group in groups.values():
        first = group[0]
        if len(group) > 1:
            (name, *_) = fold(problem.tensor or "" for problem in group)
            expected = fold(problem.expected or "" for problem in group)
            alike = expected[0] or None if len(expected) == 1 else None
            first = Problem(first.what, first.file, name, alike, remedy=first.remedy)
        found.append(first)
    return found

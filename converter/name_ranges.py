"""Names folded over their numbers: ``encoder.layer.{0…11}.output`` instead of twelve lines."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

_NUMBER = re.compile(r"(?<=[._/])\d+(?=[._/]|$)")


def collapse_ranges(names: Iterable[str]) -> list[str]:
    """The names in order of first appearance, those that differ in one number folded into one.

    Only the first number of a name is folded, and only runs of numbers are written with ``…``.
    """
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for name in names:
        head, number, tail = split_layer_index(name)
        group = groups[head, tail]
        if number is not None:
            group.append(number)
    return [
        head + _runs(sorted(set(numbers))) + tail if numbers else head
        for (head, tail), numbers in groups.items()
    ]


def split_layer_index(name: str) -> tuple[str, int | None, str]:
    """What stands before the first number of a name, that number, and what stands behind it."""
    found = _NUMBER.search(name)
    if found is None:
        return name, None, ""
    return name[: found.start()], int(found[0]), name[found.end() :]


def _runs(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [f"{run[0]}…{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs]
    return "{" + ",".join(parts) + "}"


def summarize_names(names: Iterable[str], limit: int = 12) -> str:
    """The folded names in one line, the rest counted."""
    folded = collapse_ranges(names)
    shown = ", ".join(folded[:limit])
    return shown if len(folded) <= limit else f"{shown} and {len(folded) - limit} more"

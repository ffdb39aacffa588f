"""Names collapsed over layer numbers: ``encoder.layer.{0…11}.output`` for twelve tensors."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

_NUMBER = re.compile(r"(?<=[._/])[0-9]{1,9}(?=[._/]|$)")

_MAX_RUNS = 40


def collapse_ranges(names: Iterable[str]) -> list[str]:
    """Collapse names that differ in their first number into one, in order of first appearance."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for name in names:
        prefix, number, suffix = split_layer_index(name)
        group = groups[prefix, suffix]
        if number is not None:
            group.append(number)
    return [
        prefix + _format_numbers(sorted(set(numbers))) + suffix if numbers else prefix
        for (prefix, suffix), numbers in groups.items()
    ]


def split_layer_index(name: str) -> tuple[str, int | None, str]:
    """Split a name into the part before its first number, that number, and the part after it."""
    match = _NUMBER.search(name)
    if match is None:
        return name, None, ""
    return name[: match.start()], int(match[0]), name[match.end() :]


def _format_numbers(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [f"{run[0]}…{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs]
    if len(parts) > _MAX_RUNS:
        parts[_MAX_RUNS - 1 : -1] = ["…"]
    return "{" + ",".join(parts) + "}"


def summarize_names(names: Iterable[str], limit: int = 12) -> str:
    """Return the collapsed names in one line, and the number of those over `limit`."""
    collapsed = collapse_ranges(names)
    text = ", ".join(collapsed[:limit])
    return text if len(collapsed) <= limit else f"{text} and {len(collapsed) - limit} more"

"""Models whose halves share their tensors, of which a file may keep one copy for both."""

from __future__ import annotations

from collections.abc import Iterator

from converter.matching import MatchReport
from converter.tables.blueprint import Blueprint, Slot


def materialise(report: MatchReport, target: Blueprint, halves: tuple[str, str]) -> int:
    """Give each half of a shared model its values, wherever the file keeps them.

    A tensor that only one half has in the file takes the values of its twin: the tensor of the
    same path and shape in the other half. Of twins that are both there, executing the plan proves
    that they are equal.

    Returns:
        How many tensors took their values from the other half.
    """
    found = dict(report.matched)
    taken = 0
    for slot, twin in _twins(target, halves):
        if twin.name not in found:
            continue
        if slot.name in found:
            report.copies[slot.name].append((slot.name, found[twin.name]))
            continue
        report.matched[slot.name] = found[twin.name]
        report.copies[slot.name] += [
            (slot.name, copy) for _, copy in report.copies.get(twin.name, ())
        ]
        taken += 1
    report.missing = [slot for slot in report.missing if slot.name not in report.matched]
    return taken


def _twins(target: Blueprint, halves: tuple[str, str]) -> Iterator[tuple[Slot, Slot]]:
    """Each tensor that has a twin, and the twin."""
    first, second = halves
    for own, other in ((first, second), (second, first)):
        for slot in target.slots:
            if slot.tied_to or not slot.name.startswith(f"{own}."):
                continue
            twin = target.by_name.get(other + slot.name[len(own) :])
            if twin and not twin.tied_to and twin.canonical.shape == slot.canonical.shape:
                yield slot, twin

"""Tied tensors: what they are tied to must be there, of the same shape, and no circle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from converter.errors import Problem

if TYPE_CHECKING:
    from converter.tables.blueprint import Slot


def broken_ties(slots: Mapping[str, Slot], file: str) -> list[Problem]:
    """Every tie among `slots`, by canonical name, that leads nowhere or to something else.

    Args:
        slots: all tensors of a model.
        file: what messages call the table.
    """
    problems = []

    def complain(slot: Slot, what: str, expected: str, found: str, remedy: str) -> None:
        problems.append(Problem(what, file, f"tied.{slot.name}", expected, found, remedy))

    for slot in slots.values():
        if slot.tied_to is None:
            continue
        target, seen = slots.get(slot.tied_to), {slot.name}
        if target is None:
            complain(
                slot,
                f"is tied to {slot.tied_to}, which is not there",
                "a tensor of the same model",
                "none",
                "Correct the name, or let the model have the part or head that holds it.",
            )
        elif target.canonical.shape != slot.canonical.shape:
            complain(
                slot,
                f"is tied to {slot.tied_to}, which has another shape",
                str(list(target.canonical.shape)),
                str(list(slot.canonical.shape)),
                "Correct the sizes of one of the two rows.",
            )
        while target is not None and target.tied_to is not None and target.name not in seen:
            seen.add(target.name)
            target = slots.get(target.tied_to)
        if target is not None and target.name in seen:
            complain(
                slot,
                "is tied in a circle",
                "a tensor with values of its own at the end",
                " → ".join([*sorted(seen)]),
                "Take out the tie of the tensor that files hold.",
            )
    return problems

"""Which stored tensor is which of the model's, and everything that does not fit."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from converter.checkpoint import Checkpoint
from converter.errors import MatchError, Problem
from converter.folding import fold, shorten
from converter.plan import Stored
from converter.tables.blueprint import Blueprint, Slot
from converter.tables.schema import Dialect, Vocabulary
from converter.tensors import Rearrangement, TensorSpec
from converter.wrapping import Reading, best_reading

_log = logging.getLogger(__name__)

_FORMATS = {"pt": "pytorch", "tf": "tensorflow", "flax": "flax"}
_DIALECTS = {
    "torch": "pytorch",
    "keras-hdf5": "tensorflow",
    "flax-msgpack": "flax",
    "tf-bundle": "google",
    "orbax": "flax",
}


@dataclass
class MatchReport:
    """How the tensors of a source relate to the slots of a blueprint; complete, never partial."""

    source: str
    files: str
    dialect: str
    reading: Reading = field(default_factory=Reading)
    """How the stored names were read as the dialect's."""
    matched: dict[str, Stored] = field(default_factory=dict)
    """Canonical name → where its values lie."""
    copies: dict[str, list[tuple[str, Stored]]] = field(default_factory=lambda: defaultdict(list))
    """Canonical name → further places that claim to hold the same values, each with the slot
    (the same, or one tied to it) that claims so."""
    missing: list[Slot] = field(default_factory=list)
    """Slots that nothing was found for."""
    unmatched: list[TensorSpec] = field(default_factory=list)
    """Stored tensors that the table does not know."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Stored tensors that are left out, with the reason."""
    mismatched: list[tuple[TensorSpec, Slot, tuple[int, ...]]] = field(default_factory=list)
    """Stored tensor, its slot, and the shape that the configuration asks for."""

    def problems(self, required: Iterable[Slot]) -> list[Problem]:
        """Everything wrong, given the slots that must be there."""
        found = [
            Problem(
                "wrong shape",
                self.files,
                spec.name,
                expected=f"{list(shape)} by the configuration",
                found=str(list(spec.shape)),
            )
            for spec, _, shape in self.mismatched
        ]
        wrong = {slot.name for _, slot, _ in self.mismatched}
        absent = [
            slot.spellings.get(self.dialect, slot.canonical).name
            for slot in required
            if slot.name not in self.matched and slot.name not in wrong
        ]
        found += [Problem("missing tensor", self.files, name) for name in fold(absent)]
        found += [
            Problem("the mapping table does not know this tensor", self.files, name)
            for name in fold(spec.name for spec in self.unmatched)
        ]
        return found

    def leave_out(self, names: Iterable[str], reason: str) -> None:
        """Give up what was found for some canonical names, for a reason."""
        for name in names:
            for stored in (self.matched.pop(name), *(s for _, s in self.copies.pop(name, ()))):
                self.dropped[stored.tensor.spec.name] = reason

    def require(self, required: Iterable[Slot]) -> None:
        """Make sure that everything fits and that all of `required` was found.

        Raises:
            MatchError: with every problem, layers folded.
        """
        problems = self.problems(required)
        if problems:
            raise MatchError(
                f"{self.files}: the tensors do not fit the configuration and its mapping table",
                problems,
                remedy="`converter inspect` lists what was found. A model of another "
                "architecture, or a head of your own, needs a table of its own: --mapping FILE.",
            )


def match(
    checkpoint: Checkpoint,
    blueprint: Blueprint,
    vocabulary: Vocabulary,
    source: str,
    halves: Sequence[str] = (),
) -> MatchReport:
    """Relate the tensors of `checkpoint` to the slots of `blueprint`.

    The dialect is told by the container where it can be, and else by which dialect knows most of
    the names.

    Args:
        checkpoint: the opened source.
        blueprint: what the tensors may be; a blueprint of all parts and heads of a family.
        vocabulary: the dialects.
        source: what the plan calls the source: ``encoder``, ``decoder`` or ``source``.
        halves: of a combined model, the names of its halves.
    """
    names = list(checkpoint.tensors)
    reading, chosen, index = Reading(), "", dict[str, Slot]()
    for dialect in _candidates(checkpoint, vocabulary):
        known = blueprint.index(dialect.name)
        found = best_reading(names, dialect, known, halves)
        if found.known > reading.known:
            reading, chosen, index = found, dialect.name, known
    report = MatchReport(source, _files(checkpoint), chosen, reading)
    tied: list[tuple[Slot, Stored]] = []
    for name, tensor in checkpoint.tensors.items():
        bare = reading.bare(name)
        slot = index.get(bare)
        if slot is None:
            reason = blueprint.reason_to_drop(chosen, bare)
            if reason is None:
                report.unmatched.append(tensor.spec)
            else:
                report.dropped[name] = reason
            continue
        spelling = slot.spellings[chosen]
        copies = (tensor, *checkpoint.duplicates.get(name, ()))
        for number, copy in enumerate(copies):
            if copy.spec.shape != spelling.shape:
                report.mismatched.append((copy.spec, slot, spelling.shape))
                continue
            stored = Stored(source, copy, Rearrangement(spelling.axes, slot.canonical.axes))
            if slot.tied_to:
                tied.append((slot, stored))
            elif number or slot.name in report.matched:
                report.copies[slot.name].append((slot.name, stored))
            else:
                report.matched[slot.name] = stored
    for key in filter(None, checkpoint.metadata.get("ignored", "").split(", ")):
        report.dropped.setdefault(key, "stands beside the model in a training checkpoint")
    _settle_ties(report, blueprint, tied)
    _log.info(
        "%s: %d of %d tensors known, in the names of %s",
        checkpoint.reference,
        len(checkpoint.tensors) - len(report.unmatched),
        len(checkpoint.tensors),
        chosen or "nobody",
    )
    report.missing = [
        slot for slot in blueprint.slots if slot.name not in report.matched and not slot.tied_to
    ]
    return report


def _settle_ties(
    report: MatchReport, blueprint: Blueprint, tied: Sequence[tuple[Slot, Stored]]
) -> None:
    """Tied tensors prove the values of what they are tied to, or provide them."""
    for slot, stored in tied:
        target = blueprint.resolve(slot).name
        if target in report.matched:
            report.copies[target].append((slot.name, stored))
        else:
            report.matched[target] = stored


def _candidates(checkpoint: Checkpoint, vocabulary: Vocabulary) -> list[Dialect]:
    """The dialects that the files may speak, likeliest first."""
    if checkpoint.container in _DIALECTS:
        return [vocabulary.dialects[_DIALECTS[checkpoint.container]]]
    claimed = _FORMATS.get(checkpoint.metadata.get("format", ""))
    return sorted(vocabulary.dialects.values(), key=lambda dialect: dialect.name != claimed)


def _files(checkpoint: Checkpoint) -> str:
    if len(checkpoint.files) == 1:
        return str(checkpoint.files[0])
    return str(checkpoint.directory / shorten(path.name for path in checkpoint.files))


def dominant_dtype(stored: Mapping[str, Stored]) -> str:
    """The floating-point dtype that most values have; ``float32`` if there are none."""
    sizes: dict[str, int] = defaultdict(int)
    for entry in stored.values():
        sizes[entry.tensor.spec.dtype] += entry.tensor.spec.size
    return max(sizes, key=lambda dtype: (sizes[dtype], dtype), default="float32")

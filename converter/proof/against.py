"""A finished checkpoint against what it was made from: what arrived, what is fresh, what broke."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.checkpoint import open_checkpoint
from converter.composition.model import Model, understand
from converter.containers.base import Array
from converter.errors import Problem, UnsupportedError
from converter.plan import Stored
from converter.proof.comparison import Difference, canonical_shape, compare, in_threads, values
from converter.tables.library import Library
from converter.tensors import numpy_dtype

if TYPE_CHECKING:
    from converter.proof.verify import Verification

_FEW_ULP = 8
"""Differences of so many units in the last place are rounding, no other weights."""

_UNRELATED = 0.3
"""Vectors with a smaller cosine have nothing to do with each other."""


@dataclass(frozen=True)
class Origin:
    """Where the values of one tensor come from."""

    source: str | None
    """The source, or ``None`` of a fresh tensor."""
    verdict: str
    """``equal``, ``fresh``, or what is wrong."""
    difference: Difference | None = None

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        described: dict[str, Any] = {"source": self.source, "verdict": self.verdict}
        if self.difference and not self.difference.exact:
            described["difference"] = self.difference.to_dict()
        return described


def trace(
    model: Model,
    references: Sequence[str | Path],
    library: Library,
    stack: ExitStack,
    found: Verification,
) -> dict[str, Origin]:
    """Where every tensor of `model` comes from; what is wrong goes to the problems of `found`.

    Args:
        model: the finished checkpoint.
        references: what it was made from; of two of one family, the encoder first.
        library: the mapping tables.
        stack: keeps the sources open.
        found: the verification in progress.

    Raises:
        UnsupportedError: if a source is of no family that the checkpoint holds.
    """
    sources: dict[str, tuple[str, Stored]] = {}
    taken: set[str] = set()
    for reference in references:
        checkpoint = stack.enter_context(open_checkpoint(reference))
        source = understand(checkpoint, library, label=str(reference))
        lead = _lead(model, source, taken, str(reference))
        for name, stored in source.report.matched.items():
            sources[lead + name] = (str(reference), stored)
    matched = model.report.matched
    shared = [name for name in matched if name in sources]
    compared = in_threads(lambda name: _compare(name, matched[name], sources[name][1]), shared)
    wrong = {
        name: difference
        for name, difference in zip(shared, compared, strict=True)
        if difference is None or not difference.exact
    }
    verdicts = _Diagnosis(matched, sources).verdicts(wrong)
    origins: dict[str, Origin] = {}
    for name, difference in zip(shared, compared, strict=True):
        origins[name] = Origin(sources[name][0], verdicts.get(name, "equal"), difference)
    for name in matched:
        origins.setdefault(name, Origin(None, "fresh"))
    for name, verdict in verdicts.items():
        stored = matched[name]
        found.problems.append(
            Problem(
                verdict,
                str(stored.tensor.path),
                stored.tensor.spec.name,
                expected=f"the values of {sources[name][1].tensor.spec.name} in {sources[name][0]}",
            )
        )
    found.problems += [
        Problem("is lost: the source has it", tensor=name, file=sources[name][0])
        for name in sources
        if name in model.target.by_name and name not in matched
    ]
    equal = sum(origin.verdict == "equal" for origin in origins.values())
    found.checks["tensors equal to their source"] = f"{equal} of {len(shared)}"
    found.checks["fresh tensors"] = str(len(matched) - len(shared))
    return origins


def _lead(model: Model, source: Model, taken: set[str], reference: str) -> str:
    """What stands before the source's names in the checkpoint: nothing, or a half."""
    if source.halves or not model.halves:
        return ""
    family = source.configs[""].family.name
    for half in model.halves:
        if half not in taken and model.configs[half].family.name == family:
            taken.add(half)
            return f"{half}."
    raise UnsupportedError(
        f"{reference}: is a {family} model, and no half of the checkpoint is left that is one",
        remedy="Of two sources of one family, give the encoder first.",
    )


def _compare(name: str, mine: Stored, theirs: Stored) -> Difference | None:
    """The difference, or ``None`` where not even the shapes agree."""
    if canonical_shape(mine) != canonical_shape(theirs):
        return None
    return compare(name, mine, theirs)


@dataclass
class _Diagnosis:
    """Names what happened to tensors that are not what they should be."""

    matched: Mapping[str, Stored]
    sources: Mapping[str, tuple[str, Stored]]

    def verdicts(self, wrong: Mapping[str, Difference | None]) -> dict[str, str]:
        """Canonical name → what is wrong."""
        wanted = {name: values(self.sources[name][1]) for name in wrong}
        return {name: self._verdict(name, wrong[name], wanted) for name in wrong}

    def _verdict(
        self, name: str, difference: Difference | None, wanted: Mapping[str, Array]
    ) -> str:
        mine, theirs = values(self.matched[name]), wanted[name]
        if difference is None:
            return f"has shape {list(mine.shape)} instead of {list(theirs.shape)}"
        for other, (_, stored) in self.sources.items():
            if other != name and canonical_shape(stored) == mine.shape:
                candidate = wanted[other] if other in wanted else values(stored)
                if _same(mine, candidate):
                    return f"holds the values of {other}"
        if mine.ndim == 2 and mine.shape[0] == mine.shape[1] and _same(mine, theirs.T):
            return "is transposed"
        for axis in range(mine.ndim):
            for step in (1, -1):
                if _same(mine, np.roll(theirs, step, axis)):
                    return f"is shifted by one along axis {axis}"
        for dtype in ("float16", "bfloat16"):
            with np.errstate(over="ignore"):
                rounded = theirs.astype(numpy_dtype(dtype))
            if _same(mine.astype(np.float64), rounded.astype(np.float64)):
                return f"was rounded to {dtype}"
        a, b = mine.astype(np.float64), theirs.astype(np.float64)
        if np.all(np.abs(a - b) <= _FEW_ULP * np.spacing(np.abs(theirs)).astype(np.float64)):
            return f"is off by a few units in the last place in {difference.differing:,} value(s)"
        if not difference.cosine > _UNRELATED:
            return "has nothing to do with it: drawn anew, or from another checkpoint"
        share = difference.differing / difference.elements
        return (
            f"differs in {difference.differing:,} value(s) ({share:.1%}),"
            f" by up to {difference.max_abs:.3g} (cosine {difference.cosine:.4f})"
        )


def _same(first: Array, second: Array) -> bool:
    return first.shape == second.shape and bool(np.array_equal(first, second, equal_nan=False))

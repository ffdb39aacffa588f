"""The values of a finished checkpoint: the same in all its files, and those that were written."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from converter.errors import ConverterError, Problem
from converter.execution.row_blocks import cast, count_non_finite
from converter.execution.row_readers import StoredTensorReader
from converter.formats.base import Array
from converter.models.model import Model
from converter.plan import SourceTensor
from converter.progress import ProgressCounter
from converter.tensors import Rearrangement, numpy_dtype
from converter.verification.comparison import (
    canonical_shape,
    compare,
    ranges,
    same_bits,
    scratch_of_thread,
    thread_map,
)
from converter.verification.cross_file_checks import check_same_tensors, note_dtypes
from converter.verification.difference_classifier import Diagnosis, tensor_sha256
from converter.verification.result import Verification


@dataclass(frozen=True)
class TensorCheck:
    """One tensor, everywhere it lies, and what the manifest states of it."""

    name: str
    places: Sequence[SourceTensor]
    """The first is what the others are compared with."""
    stated: Mapping[str, Any] | None
    hashed: bool
    """Whether there is a manifest to compare hashes with."""

    @property
    def nbytes(self) -> int:
        """Bytes of all its places."""
        return sum(place.tensor.spec.nbytes for place in self.places)


@dataclass
class TensorCheckResult:
    """What was found of one tensor."""

    broken: int = 0
    """Values that are infinite or not a number."""
    wrong: list[tuple[SourceTensor, SourceTensor]] = field(default_factory=list)
    """A place that is wrong, and one that is right."""
    problems: list[Problem] = field(default_factory=list)
    alike: int = 0
    """Further places with the values of the one that is right."""
    as_hashed: bool = False
    """Whether all places hold the values whose hash the manifest states."""


def check_values(
    models: Mapping[str, Model],
    manifest: Mapping[str, Any] | None,
    found: Verification,
    jobs: int | None,
    meter: ProgressCounter,
) -> None:
    """Every place of every tensor against the first, and that against the manifest's hash.

    Each file is read once. What is wrong goes to the problems of `found`.

    Args:
        models: weight file → the model that it holds, not empty.
        manifest: its content, if there is one.
        found: the verification in progress.
        jobs: threads.
        meter: counts the bytes that are read.

    """
    stated = manifest.get("tensors") if manifest is not None else None
    hashes = stated if isinstance(stated, dict) else {}
    if manifest is not None and not hashes:
        found.problems.append(Problem("the manifest states no tensors"))
    places = _places(models)
    tasks = [
        TensorCheck(name, stored, _entry(hashes, name), bool(hashes))
        for name, stored in places.items()
    ]
    count = meter.start_step({task.name: task.nbytes for task in tasks})
    outcomes = thread_map(_prove, tasks, jobs, lambda task: count(task.name))
    truth = {task.name: task.places[0] for task in tasks}
    truth |= {
        task.name: outcome.wrong[0][1]
        for task, outcome in zip(tasks, outcomes, strict=True)
        if outcome.wrong
    }
    diagnosis = Diagnosis(truth)
    for task, outcome in zip(tasks, outcomes, strict=True):
        found.problems += outcome.problems
        for bad, good in outcome.wrong:
            found.problems.append(_differs(task.name, bad, good, diagnosis))
        if outcome.broken:
            found.notes.append(
                f"{task.name}: {outcome.broken:,} value(s) are infinite or not a number"
            )
    compared = sum(len(task.places) - 1 for task in tasks)
    if len(models) > 1 or compared:
        alike = sum(outcome.alike for outcome in outcomes)
        found.checks["values equal in all files"] = f"{alike:,} of {compared:,} tensors compared"
    if hashes:
        held = sum(outcome.as_hashed for outcome in outcomes)
        found.checks["tensors with the hash that the manifest states"] = (
            f"{held:,} of {len(hashes):,}"
        )
        found.problems += [
            Problem("the manifest knows it, but it is missing", tensor=name)
            for name in hashes
            if name not in places
        ]
    check_same_tensors(models, found)
    note_dtypes(models, found)


def _entry(hashes: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    entry = hashes.get(name)
    return entry if isinstance(entry, dict) else None


def _places(models: Mapping[str, Model]) -> dict[str, list[SourceTensor]]:
    """Canonical name → all places of it that are not the very same bytes."""
    places: dict[str, list[SourceTensor]] = {}
    for model in models.values():
        for name, stored in model.report.matched.items():
            held = places.setdefault(name, [])
            for each in (stored, *(copy for _, copy in model.report.copies.get(name, ()))):
                known = {(one.tensor.location, one.rearrangement) for one in held}
                if (each.tensor.location, each.rearrangement) not in known:
                    held.append(each)
    return places


def _prove(task: TensorCheck) -> TensorCheckResult:
    """Read each place once; look closer only if anything is wrong."""
    outcome = TensorCheckResult()
    first, *others = task.places
    try:
        others = _of_one_shape(task, outcome)
        agree, digest = _read(first, others, task, outcome)
    except ConverterError as error:
        outcome.problems += list(error.problems) or [Problem(error.message)]
        return outcome
    outcome.problems += _as_stated(task)
    expected = task.stated.get("sha256") if task.stated else None
    if task.hashed and task.stated is None:
        outcome.problems.append(
            Problem("the manifest does not know it", str(first.tensor.path), first.tensor.spec.name)
        )
    outcome.alike = len(others)
    outcome.as_hashed = agree and digest is not None and digest == expected
    if not agree or (task.stated is not None and digest != expected):
        _close_look(replace(task, places=[first, *others]), outcome)
    return outcome


def _of_one_shape(task: TensorCheck, outcome: TensorCheckResult) -> list[SourceTensor]:
    """The further places that have the first one's canonical shape."""
    first, *others = task.places
    same = []
    for other in others:
        if canonical_shape(other) == canonical_shape(first):
            same.append(other)
            continue
        outcome.problems.append(
            Problem(
                "its shape differs",
                str(other.tensor.path),
                other.tensor.spec.name,
                expected=f"{list(canonical_shape(first))} as in {first.tensor.path.name}",
                found=str(list(canonical_shape(other))),
            )
        )
    return same


def _read(
    first: SourceTensor,
    others: Sequence[SourceTensor],
    task: TensorCheck,
    outcome: TensorCheckResult,
) -> tuple[bool, str | None]:
    """Whether all places hold the same values, and the hash if there is one to compare with."""
    scratch = scratch_of_thread()
    rows, spans = StoredTensorReader(first), list(ranges(first))
    further = _twins(others) if len(spans) == 1 else [(StoredTensorReader(o), None) for o in others]
    dtype = _stated_dtype(task)
    digest = hashlib.sha256() if dtype is not None else None
    agree = True
    for start, stop in spans:
        block = rows.read(start, stop, scratch, "first")[1].reshape(-1)
        outcome.broken += count_non_finite(block)
        raws: list[Array] = []
        for number, (other, twin) in enumerate(further):
            end = stop if twin is None else other.stored.tensor.spec.shape[0]
            raw, theirs = other.read(start, end, scratch, f"other {number}")
            raws.append(raw)
            mine = block if twin is None else raws[twin].reshape(-1)
            agree = agree and _agree(mine, theirs.reshape(-1))
        if digest is not None and dtype is not None:
            if block.dtype != dtype:
                narrow = scratch.array("narrow", dtype, block.shape)
                cast(block, narrow)
                block = narrow
            digest.update(block.view(np.uint8).data)
    return agree, digest.hexdigest() if digest else None


def _twins(others: Sequence[SourceTensor]) -> list[tuple[StoredTensorReader, int | None]]:
    """How to read each place, and an earlier one that it may be compared with as both lie there.

    Files of other frameworks keep most matrices the same way; comparing them with each other saves
    rearranging all but one. For tensors of one block alone.
    """
    known: dict[tuple[object, ...], int] = {}
    found: list[tuple[StoredTensorReader, int | None]] = []
    for number, other in enumerate(others):
        spec, way = other.tensor.spec, other.rearrangement
        key = (way, spec.dtype, spec.shape)
        twin = known.setdefault(key, number)
        if twin == number or way.keeps_bytes or 1 in spec.shape:
            found.append((StoredTensorReader(other), None))
        else:
            as_it_lies = replace(other, rearrangement=Rearrangement(way.source, way.source))
            found.append((StoredTensorReader(as_it_lies), twin))
    return found


def _agree(mine: Array, theirs: Array) -> bool:
    return same_bits(mine, theirs) if mine.dtype == theirs.dtype else _same_numbers(mine, theirs)


def _stated_dtype(task: TensorCheck) -> np.dtype[Any] | None:
    """The dtype whose bytes the manifest hashed; ``None`` if it states none that there is."""
    try:
        return numpy_dtype(str(task.stated.get("dtype"))) if task.stated else None
    except KeyError:
        return None


def _same_numbers(mine: Array, theirs: Array) -> bool:
    wide = [np.empty(array.shape, np.float64) for array in (mine, theirs)]
    for array, out in zip((mine, theirs), wide, strict=True):
        cast(array, out)
    return bool(np.array_equal(wide[0], wide[1], equal_nan=True))


def _as_stated(task: TensorCheck) -> list[Problem]:
    """Another shape than stated, and places whose dtype cannot hold what was written."""
    if task.stated is None:
        return []
    stated = _stated_dtype(task)
    if stated is None:
        finding = f"the manifest states the dtype {task.stated.get('dtype')!r}, which there is not"
        return [Problem(finding, tensor=task.name)]
    shape = list(canonical_shape(task.places[0]))
    problems = []
    if task.stated.get("shape") != shape:
        expected = f"{task.stated.get('shape')} by the manifest"
        problems = [Problem("has another shape", None, task.name, expected, str(shape))]
    return problems + [
        Problem(
            "was cast to a narrower dtype",
            str(place.tensor.path),
            place.tensor.spec.name,
            expected=f"{stated.name} by the manifest",
            found=place.tensor.spec.dtype,
        )
        for place in task.places
        if not np.can_cast(stated, numpy_dtype(place.tensor.spec.dtype), "safe")
    ]


def _close_look(task: TensorCheck, outcome: TensorCheckResult) -> None:
    """Tell which places are right: those of the stated hash, or of most, or else the first."""
    stated = _stated_dtype(task)
    dtype = stated.name if stated is not None else "float64"
    prints = [tensor_sha256(place, dtype) for place in task.places]
    expected = str(task.stated.get("sha256", "")) if task.stated else ""
    right = next((i for i, each in enumerate(prints) if each.hex() == expected), None)
    outcome.alike = max(Counter(prints).values()) - 1
    if task.stated is not None and right is None:
        outcome.problems += [
            Problem(
                "its values are not those that were written",
                str(place.tensor.path),
                place.tensor.spec.name,
                expected=f"SHA-256 {expected or 'in the manifest'}",
                found=each.hex(),
            )
            for place, each in zip(task.places, prints, strict=True)
        ]
        return
    if right is None:
        (most, votes), *_ = Counter(prints).most_common()
        right = prints.index(most) if votes > 1 else 0
    good = task.places[right]
    outcome.alike = prints.count(prints[right]) - 1
    outcome.wrong += [
        (place, good)
        for place, each in zip(task.places, prints, strict=True)
        if each != prints[right]
    ]


def _differs(name: str, bad: SourceTensor, good: SourceTensor, diagnosis: Diagnosis) -> Problem:
    try:
        difference = compare(name, bad, good)
        verdict = diagnosis.verdict(name, bad, difference)
    except ConverterError as error:
        return error.problems[0] if error.problems else Problem(error.message)
    tied = ", which it is tied to" if good.tensor.path == bad.tensor.path else ""
    return Problem(
        verdict,
        str(bad.tensor.path),
        bad.tensor.spec.name,
        expected=f"the values of {good.tensor.spec.name} in {good.tensor.path.name}{tied}",
        found=f"{difference.differing:,} of {difference.elements:,} different,"
        f" by up to {difference.max_abs:.3g}",
    )

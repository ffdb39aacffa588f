"""The values of a finished checkpoint: equal in all files, and those that were written."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from converter.errors import ConverterError, Problem
from converter.execution.rows import BufferPool, StoredTensorReader, cast, count_non_finite
from converter.formats.base import Array
from converter.models.model import Model
from converter.plan import SourceTensor
from converter.planning.manifest import NO_HASH
from converter.progress import ProgressCounter
from converter.tensors import Rearrangement, numpy_dtype
from converter.verification.comparison import (
    ReadAhead,
    as_float64,
    canonical_shape,
    compare,
    ranges,
    same_bits,
    thread_buffers,
    thread_map,
)
from converter.verification.difference_classifier import DifferenceClassifier, tensor_sha256
from converter.verification.manifest import tensor_entries
from converter.verification.result import Findings, tensor_problem


@dataclass(frozen=True)
class TensorCheck:
    """One tensor, all its copies in the files, and its entry in the manifest."""

    name: str
    copies: Sequence[SourceTensor]
    """The first is the one that the others are compared with."""
    entry: Mapping[str, Any] | None
    hashed: bool = True
    """Whether the manifest states a hash."""

    @property
    def sha256(self) -> str | None:
        """Return the SHA-256 that the manifest states."""
        return self.entry.get("sha256") if self.entry else None

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Return the dtype that the manifest states; ``None`` if it is not a dtype."""
        try:
            return numpy_dtype(str(self.entry.get("dtype"))) if self.entry else None
        except KeyError:
            return None


@dataclass(frozen=True)
class TensorCheckResult:
    """What was found about one tensor."""

    problems: Sequence[Problem] = ()
    non_finite: int = 0
    """Values that are infinite or not a number."""
    wrong: Sequence[tuple[SourceTensor, SourceTensor]] = ()
    """Pairs of a wrong copy and a right one."""
    equal_copies: int = 0
    """Further copies with the values of the right one."""
    matches_hash: bool = False
    """If true, all copies hold the values whose hash the manifest states."""


def check_values(
    models: Mapping[str, Model],
    manifest: Mapping[str, Any] | None,
    jobs: int | None,
    progress: ProgressCounter,
) -> Findings:
    """Compare every copy of every tensor with the first, and that with the manifest's hash.

    Each file of `models` (weight file → model) is read once; tensors with a fault are read again.
    """
    entries = tensor_entries(manifest)
    hashed = not (manifest and manifest.get(NO_HASH) is True)
    problems: list[Problem] = []
    if manifest is not None and not entries:
        problems.append(Problem("the manifest lists no tensors"))
    tensors = _copies(models)
    tasks = [
        TensorCheck(name, copies, e if isinstance(e := entries.get(name), dict) else None, hashed)
        for name, copies in tensors.items()
    ]
    count = progress.start_step(
        {task.name: sum(copy.tensor.spec.nbytes for copy in task.copies) for task in tasks}
    )
    results = thread_map(
        _check_tensor, tasks, jobs, lambda task: count(task.name), lambda task: task.copies
    )
    pairs = list(zip(tasks, results, strict=True))
    right = {t.name: result.wrong[0][1] if result.wrong else t.copies[0] for t, result in pairs}
    classifier = DifferenceClassifier(right)
    notes, checks = [], {}
    for task, result in pairs:
        problems += result.problems
        if entries and task.entry is None:
            problems.append(tensor_problem("not listed in the manifest", task.copies[0]))
        problems += [_problem(task.name, bad, good, classifier) for bad, good in result.wrong]
        if number := result.non_finite:
            notes.append(f"{task.name}: {number:,} value(s) are infinite or not a number")
    compared = sum(len(task.copies) - 1 for task in tasks)
    if len(models) > 1 or compared:
        equal = sum(result.equal_copies for result in results)
        checks["values equal in all files"] = f"{equal:,} of {compared:,} tensors compared"
    if entries and not hashed:
        notes.append(
            "its manifest states no hashes (--no-hash): whether the values are those that were "
            "written is not checked"
        )
    elif entries:
        passed = f"{sum(result.matches_hash for result in results):,} of {len(entries):,}"
        checks["tensors with the hash that the manifest states"] = passed
    if entries:
        absent = [name for name in entries if name not in tensors]
        problems += [Problem("listed in the manifest, but missing", tensor=n) for n in absent]
    problems += _missing_in_some(models)
    return Findings(problems, notes + _dtype_notes(models), checks)


def _copies(models: Mapping[str, Model]) -> dict[str, list[SourceTensor]]:
    """Map each canonical name to all copies that are not the very same bytes."""
    tensors: dict[str, list[SourceTensor]] = {}
    for model in models.values():
        for name, stored in model.key_match.matched.items():
            copies = tensors.setdefault(name, [])
            for each in (stored, *(copy for _, copy in model.key_match.duplicates.get(name, ()))):
                seen = {(copy.tensor.location, copy.rearrangement) for copy in copies}
                if (each.tensor.location, each.rearrangement) not in seen:
                    copies.append(each)
    return tensors


def _check_tensor(task: TensorCheck) -> TensorCheckResult:
    """Read each copy once; read again only if anything is wrong."""
    first, shape = task.copies[0], canonical_shape(task.copies[0])
    others = [each for each in task.copies[1:] if canonical_shape(each) == shape]
    expected = f"{list(shape)} as in {first.tensor.path.name}"
    problems = [
        tensor_problem("its shape differs", each, expected, str(list(canonical_shape(each))))
        for each in task.copies[1:]
        if canonical_shape(each) != shape
    ]
    try:
        dtype = task.dtype if task.hashed else None
        agree, digest, non_finite = _read(first, others, dtype)
    except ConverterError as error:
        return TensorCheckResult([*problems, *(error.problems or [Problem(error.message)])])
    problems += _compare_with_entry(task)
    if agree and (task.entry is None or not task.hashed or digest == task.sha256):
        matches = digest is not None and digest == task.sha256
        return TensorCheckResult(problems, non_finite, (), len(others), matches)
    wrong, equal, more = _wrong_copies(replace(task, copies=[first, *others]))
    return TensorCheckResult([*problems, *more], non_finite, wrong, equal)


_PIECE = 1 << 20
"""Bytes read, compared and hashed at once, so that they stay in the cache of a core."""


def _read(
    first: SourceTensor, others: Sequence[SourceTensor], dtype: np.dtype[Any] | None
) -> tuple[bool, str | None, int]:
    """Read all copies once, piece by piece.

    Return whether all are equal, the SHA-256 of the first as `dtype` (if given), and its number of
    values that are not finite.
    """
    buffers = thread_buffers()
    rows, spans = StoredTensorReader(first), list(ranges(first))
    transposed, plain = _transposed(others, len(spans) == 1)
    readers = [StoredTensorReader(other) for other in plain]
    digest = hashlib.sha256() if dtype is not None else None
    agree, non_finite = True, 0
    width = first.tensor.spec.nbytes // max(1, spans[-1][1]) if spans else 0
    for span in spans:
        for other in (first, *others):
            ReadAhead.advance(other, span[0] * width, (span[1] - span[0]) * width)
        blocks = []
        for number, copies in enumerate(transposed):
            raw, block = StoredTensorReader(copies[0]).read(*span, buffers, f"transposed {number}")
            agree = agree and all(_equal_as_stored(raw, copy, buffers) for copy in copies[1:])
            blocks.append(block.reshape(-1))
        done = 0
        pieces = ranges(first, span, _PIECE) if first.rearrangement.keeps_bytes else [span]
        for start, stop in pieces:
            mine = rows.read(start, stop, buffers, "first")[1].reshape(-1)
            non_finite += count_non_finite(mine)
            for number, reader in enumerate(readers):
                theirs = reader.read(start, stop, buffers, f"other {number}")[1]
                agree = agree and _equal(mine, theirs.reshape(-1))
            for block in blocks:
                agree = agree and _equal(mine, block[done : done + mine.size])
            done += mine.size
            if digest is not None and dtype is not None:
                if mine.dtype != dtype:
                    narrow = buffers.array("narrow", dtype, mine.shape)
                    cast(mine, narrow)
                    mine = narrow
                digest.update(mine.view(np.uint8).data)
    return agree, digest.hexdigest() if digest else None, non_finite


def _transposed(
    others: Sequence[SourceTensor], complete: bool
) -> tuple[list[list[SourceTensor]], list[SourceTensor]]:
    """Return the copies that are stored transposed, by layout, and those that are not.

    Files of other frameworks store most matrices in the same layout; comparing those with each
    other as stored saves transposing all but one. That needs all rows of a tensor, `complete`.
    """
    layouts: dict[tuple[object, ...], list[SourceTensor]] = {}
    plain = []
    for number, other in enumerate(others):
        spec, way = other.tensor.spec, other.rearrangement
        if way.keeps_bytes:
            plain.append(other)
        else:
            key = (way, spec.dtype, spec.shape) if complete else (number,)
            layouts.setdefault(key, []).append(other)
    return list(layouts.values()), plain


def _equal_as_stored(raw: Array, copy: SourceTensor, buffers: BufferPool) -> bool:
    """Return whether a copy in the layout of `raw`, read piece by piece, holds the same bytes."""
    way, done, agree = copy.rearrangement, 0, True
    stored = replace(copy, rearrangement=Rearrangement(way.source, way.source))
    reader, flat = StoredTensorReader(stored), raw.reshape(-1)
    for start, stop in ranges(stored, block=_PIECE):
        theirs = reader.read(start, stop, buffers, "as stored")[1].reshape(-1)
        agree = agree and same_bits(flat[done : done + theirs.size], theirs)
        done += theirs.size
    return agree


def _equal(mine: Array, theirs: Array) -> bool:
    if mine.dtype == theirs.dtype:
        return same_bits(mine, theirs)
    return bool(np.array_equal(as_float64(mine), as_float64(theirs), equal_nan=True))


def _compare_with_entry(task: TensorCheck) -> list[Problem]:
    """Report another shape than the manifest states, and dtypes too narrow for what it states."""
    if task.entry is None:
        return []
    dtype = task.dtype
    if dtype is None:
        what = f"the manifest states an unknown dtype: {task.entry.get('dtype')!r}"
        return [Problem(what, tensor=task.name)]
    shape = list(canonical_shape(task.copies[0]))
    problems = []
    if task.entry.get("shape") != shape:
        expected = f"{task.entry.get('shape')} by the manifest"
        problems = [Problem("has another shape", None, task.name, expected, str(shape))]
    what, expected = "was cast to a narrower dtype", f"{dtype.name} by the manifest"
    return problems + [
        tensor_problem(what, copy, expected, copy.tensor.spec.dtype)
        for copy in task.copies
        if not np.can_cast(dtype, numpy_dtype(copy.tensor.spec.dtype), "safe")
    ]


def _wrong_copies(
    task: TensorCheck,
) -> tuple[list[tuple[SourceTensor, SourceTensor]], int, list[Problem]]:
    """Decide which copies are right: those with the stated hash, else the majority or the first.

    Return pairs of a wrong copy and a right one, the number of further right copies, and problems
    if no copy has the stated hash.
    """
    dtype = task.dtype.name if task.dtype is not None else "float64"
    hashes = [tensor_sha256(copy, dtype) for copy in task.copies]
    (majority, votes), *_ = Counter(hashes).most_common()
    right = majority if votes > 1 else hashes[0]
    if task.entry is not None and task.hashed:
        stated = str(task.entry.get("sha256", ""))
        matching = next((digest for digest in hashes if digest.hex() == stated), None)
        if matching is None:
            what = "its values differ from those that were written"
            expected = f"SHA-256 {stated or 'in the manifest'}"
            problems = [
                tensor_problem(what, copy, expected, digest.hex())
                for copy, digest in zip(task.copies, hashes, strict=True)
            ]
            return [], votes - 1, problems
        right = matching
    good = task.copies[hashes.index(right)]
    wrong = [(copy, good) for copy, each in zip(task.copies, hashes, strict=True) if each != right]
    return wrong, hashes.count(right) - 1, []


def _problem(
    name: str, bad: SourceTensor, good: SourceTensor, classifier: DifferenceClassifier
) -> Problem:
    try:
        difference = compare(name, bad, good)
        verdict = classifier.classify(name, bad, difference)
    except ConverterError as error:
        return error.problems[0] if error.problems else Problem(error.message)
    tied = ", which it is tied to" if good.tensor.path == bad.tensor.path else ""
    expected = f"the values of {good.tensor.spec.name} in {good.tensor.path.name}{tied}"
    counts = f"{difference.differing:,} of {difference.elements:,} different"
    return tensor_problem(verdict, bad, expected, f"{counts}, by up to {difference.max_abs:.3g}")


def _missing_in_some(models: Mapping[str, Model]) -> list[Problem]:
    """Report tensors that a model may lack, but that only some of the files lack."""
    problems = []
    for label, model in models.items():
        dialect = model.key_match.dialect
        present = {*model.key_match.matched, *(param.name for param in model.required)}
        omitted = model.spec.missing_parts.get(dialect, frozenset())
        for name, param in model.spec.by_name.items():
            holder = next((at for at in models if name in models[at].key_match.matched), None)
            if name in present or holder is None or param.part in omitted:
                continue
            if dialect in param.stored_as and not param.tied_to:
                what, path = (
                    f"missing, although {holder} has it",
                    model.checkpoint.directory / label,
                )
                problems.append(Problem(what, str(path), param.stored_as[dialect].name))
    return problems


def _dtype_notes(models: Mapping[str, Model]) -> list[str]:
    """Note files that store tensors in another dtype than the first file, or mix dtypes."""
    notes = []
    reference, *others = models
    first = models[reference].key_match.matched
    for label in others:
        pairs = Counter(
            (stored.tensor.spec.dtype, first[name].tensor.spec.dtype)
            for name, stored in models[label].key_match.matched.items()
            if name in first
        )
        notes += [
            f"{label} holds {count:,} tensor(s) as {mine} that {reference} holds as {theirs}"
            for (mine, theirs), count in pairs.items()
            if mine != theirs
        ]
    for label, model in models.items():
        dtypes = Counter(stored.tensor.spec.dtype for stored in model.key_match.matched.values())
        if len(dtypes) > 1:
            counts = ", ".join(f"{count:,} {dtype}" for dtype, count in dtypes.most_common())
            notes.append(f"{label} mixes dtypes: {counts}")
    return notes

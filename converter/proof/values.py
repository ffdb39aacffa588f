"""The values of a finished checkpoint: the same in all its files, and those that were written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from converter.composition.model import Model
from converter.engine.numbers import cast, count_non_finite
from converter.engine.scratch import Scratch
from converter.errors import ConverterError, Problem
from converter.plan import Stored
from converter.proof.comparison import BLOCK, blocks, compare, in_threads
from converter.tensors import numpy_dtype

if TYPE_CHECKING:
    from converter.proof.verify import Verification


def check_values(
    models: Mapping[str, Model],
    manifest: Mapping[str, Any] | None,
    found: Verification,
    jobs: int | None,
) -> list[Problem]:
    """Every file against the first, tied and repeated tensors against each other, the first
    against the manifest's hashes."""
    reference, *others = models
    first = models[reference].report
    stated = manifest.get("tensors") if manifest else None
    hashes = stated if isinstance(stated, dict) else {}
    tasks: list[tuple[str, Stored, str, Stored]] = []
    for other in others:
        for name, stored in models[other].report.matched.items():
            if name in first.matched:
                tasks.append((name, first.matched[name], other, stored))
    for label, model in models.items():
        for name, copies in model.report.copies.items():
            tasks += [(name, model.report.matched[name], label, copy) for _, copy in copies]
    problems = [p for result in in_threads(_same, tasks, jobs) for p in result]
    found.checks["values equal in all files"] = f"{len(tasks)} tensors compared"
    own = list(first.matched.items())
    proven = in_threads(lambda item: _as_stated(*item, hashes), own, jobs)
    problems += [p for result, _ in proven for p in result]
    broken = [(name, bad) for (name, _), (_, bad) in zip(own, proven, strict=True) if bad]
    found.notes += [f"{name}: {bad} value(s) are infinite or not a number" for name, bad in broken]
    if hashes:
        found.checks["tensors with the hash that the manifest states"] = str(len(hashes))
        for name in hashes:
            if name not in first.matched:
                problems.append(Problem("the manifest knows it, but it is missing", tensor=name))
    return problems


def _same(task: tuple[str, Stored, str, Stored]) -> list[Problem]:
    """Whether two places hold the same values."""
    name, first, _, second = task
    try:
        difference = compare(name, first, second)
    except ConverterError as error:
        return list(error.problems) or [Problem(error.message)]
    if difference.exact:
        return []
    return [
        Problem(
            "its values differ",
            str(second.tensor.path),
            second.tensor.spec.name,
            expected=f"those of {first.tensor.spec.name} in {first.tensor.path.name}",
            found=f"{difference.differing:,} of {difference.elements:,} different,"
            f" by up to {difference.max_abs:.3g}",
        )
    ]


def _as_stated(name: str, stored: Stored, hashes: Mapping[str, Any]) -> tuple[list[Problem], int]:
    """Whether a tensor has the hash that the manifest states; how many values are no numbers."""
    entry = hashes.get(name)
    stated = entry if isinstance(entry, dict) else {}
    dtype = stated.get("dtype", stored.tensor.spec.dtype)
    digest = hashlib.sha256()
    broken = 0
    scratch = Scratch(BLOCK)
    try:
        target = numpy_dtype(dtype)
        for block in blocks(stored, scratch, "block"):
            broken += count_non_finite(block)
            if block.dtype != target:
                narrow = scratch.array("narrow", target, block.shape)
                cast(block, narrow)
                block = narrow
            digest.update(block.reshape(-1).view("u1").data)
    except KeyError:
        return [Problem(f"the manifest states an unknown dtype {dtype!r}", tensor=name)], 0
    except ConverterError as error:
        return list(error.problems) or [Problem(error.message)], 0
    if hashes and stated.get("sha256") != digest.hexdigest():
        problem = Problem(
            "its values are not those that were written",
            str(stored.tensor.path),
            stored.tensor.spec.name,
            expected=f"SHA-256 {stated.get('sha256', 'in the manifest')}",
            found=digest.hexdigest(),
        )
        return [problem], broken
    return [], broken

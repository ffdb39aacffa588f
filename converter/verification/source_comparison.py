"""A finished checkpoint against what it was made from: what arrived, what is fresh, what broke."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from converter.architectures.registry import ArchitectureRegistry
from converter.checkpoint.opening import open_files
from converter.errors import Problem, UnsupportedError
from converter.execution.row_readers import ResizedTensorReader
from converter.models.model import Model, resolve_model
from converter.name_ranges import summarize_names
from converter.plan import ResizedTensor, SourceTensor, TargetTensor
from converter.progress import ProgressCounter
from converter.verification.comparison import (
    Difference,
    Provenance,
    canonical_shape,
    compare,
    thread_map,
)
from converter.verification.difference_classifier import UNRELATED, Diagnosis, describe_difference
from converter.verification.expected_sources import ExpectedSources, Sources, expected_sources
from converter.verification.name_alignment import (
    align_names,
    align_submodel_names,
    check_related,
    matching_submodel,
)
from converter.verification.result import Verification
from converter.verification.value_report import measure

_LARGEST, _LEAST = 1e4, 1e-20
"""Absolute values between which the largest of every fresh tensor lies, if it is not all zeros."""


def compare_with_sources(
    model: Model,
    references: Sequence[str | Path],
    registry: ArchitectureRegistry,
    stack: ExitStack,
    found: Verification,
    jobs: int | None,
    meter: ProgressCounter,
    manifest: Mapping[str, Any] | None = None,
) -> dict[str, Provenance]:
    """Where every tensor of `model` comes from; what is wrong goes to the problems of `found`.

    Args:
        model: the finished checkpoint.
        references: what it was made from; of two of one family, the encoder first.
        registry: the mapping tables.
        stack: keeps the sources open.
        found: the verification in progress.
        jobs: threads.
        meter: counts the bytes that are compared.
        manifest: of the finished checkpoint, if it has one: what was meant to be otherwise.

    Raises:
        UnsupportedError: if a source is of no family that the checkpoint holds.

    """
    sources: dict[str, tuple[str, SourceTensor]] = {}
    taken: set[str] = set()
    for reference in references:
        checkpoint = stack.enter_context(open_files(reference))
        source = resolve_model(checkpoint, registry, label=str(reference))
        submodel = _half(model, source, taken)
        if submodel and model.submodels:
            own = align_submodel_names(model, source, submodel, registry)
        else:
            own = align_names(model, source, submodel)
        check_related(model, source, own)
        sources |= {name: (str(reference), stored) for name, stored in own.items()}
    matched = model.report.matched
    meant = expected_sources(sources, manifest)
    found.notes += _left_out(model, sources, meant)
    sources = dict(meant.sources)
    if meant.drawn:
        found.notes.append(f"drawn anew, as asked for: {summarize_names(sorted(meant.drawn))}")
    shared = [name for name in matched if name in sources]
    compared = thread_map(
        lambda name: _compare(name, matched[name], sources[name][1]),
        shared,
        jobs,
        meter.start_step({name: 2 * matched[name].tensor.spec.nbytes for name in shared}),
    )
    wrong = {
        name: difference
        for name, difference in zip(shared, compared, strict=True)
        if difference is None or not difference.exact
    }
    diagnosis = Diagnosis({name: stored for name, (_, stored) in sources.items()})
    verdicts = {
        name: describe_difference(difference)
        if difference and isinstance(sources[name][1], ResizedTensor)
        else diagnosis.verdict(name, matched[name], difference)
        for name, difference in wrong.items()
    }
    origins: dict[str, Provenance] = {}
    for name, difference in zip(shared, compared, strict=True):
        origins[name] = Provenance(sources[name][0], verdicts.get(name, "equal"), difference)
    for name in matched:
        origins.setdefault(name, Provenance(None, "fresh"))
    found.problems += _lost_wholly(model, shared, verdicts, sources)
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
    told = {param.name for _, param, _ in model.report.mismatched}  # as of a wrong shape
    found.problems += [
        Problem("is lost: the source has it", tensor=name, file=sources[name][0])
        for name in sources
        if name in model.target.by_name and name not in matched and name not in told
    ]
    fresh = [name for name in matched if name not in sources]
    problems, odd = _drawn_as_told(model, fresh, jobs)
    found.problems += problems
    if odd:
        found.notes.append(
            "fresh, but not the constants that their rule makes (trained since, or never drawn):"
            f" {summarize_names(odd)}"
        )
    equal = sum(origin.verdict == "equal" for origin in origins.values())
    found.checks["tensors equal to their source"] = f"{equal} of {len(shared)}"
    found.checks["fresh tensors"] = str(len(matched) - len(shared))
    return origins


def _left_out(model: Model, given: Sources, meant: ExpectedSources) -> Iterator[str]:
    """What of each source is not in the checkpoint, and need not be."""
    used = (entry for name, entry in meant.sources.items() if name in model.target.by_name)
    taken = {id(stored.tensor) for _, stored in used}
    left: dict[str, list[str]] = {}
    for name, (reference, stored) in given.items():
        if id(stored.tensor) not in taken and name not in meant.drawn:
            left.setdefault(reference, []).append(name)
    for reference, names in left.items():
        yield f"{reference}: not in the checkpoint: {summarize_names(names)}"


def _lost_wholly(
    model: Model,
    shared: Sequence[str],
    verdicts: Mapping[str, str],
    sources: Mapping[str, tuple[str, SourceTensor]],
) -> Iterator[Problem]:
    """Halves of which no tensor arrived, which is told before its tensors are."""
    for submodel in model.submodels or ("",):
        lead = f"{submodel}." if submodel else ""
        mine = [name for name in shared if name.startswith(lead)]
        told = {verdicts.get(name) for name in mine}
        if len(mine) > 1 and UNRELATED in told and None not in told:
            yield Problem(
                f"nothing of {sources[mine[0]][0]} arrived",
                str(model.report.matched[mine[0]].tensor.path),
                submodel or None,
                found=f"all of its {len(mine)} tensors are other ones",
                remedy="make it again with `converter compose` or `converter convert`",
            )


def _drawn_as_told(
    model: Model, fresh: Sequence[str], jobs: int | None
) -> tuple[list[Problem], list[str]]:
    """Whether fresh tensors hold what a rule may draw, or memory that nobody wrote to.

    transformers leaves new layer norms of some families so, and a projection that a file lacks.

    Returns:
        Tensors of values that no rule draws, and names of those whose rule is a constant that
        they are not.

    """
    matched, params = model.report.matched, model.target.by_name
    seen = thread_map(measure, [matched[name] for name in fresh], jobs)
    problems, odd = [], []
    for name, values in zip(fresh, seen, strict=True):
        largest = max(abs(values.minimum), abs(values.maximum)) if values.count else 0.0
        if largest > _LARGEST or 0 < largest < _LEAST or values.broken:
            stored = matched[name]
            no_numbers = f" and {values.broken:,} that are no numbers" if values.broken else ""
            problems.append(
                Problem(
                    "was never drawn: no rule gives such values to fresh weights",
                    str(stored.tensor.path),
                    stored.tensor.spec.name,
                    found=f"values up to {largest:.3g}{no_numbers}",
                    remedy="draw it anew: `converter compose` does",
                )
            )
        elif params[name].rule == "constant" and values.minimum != values.maximum:
            odd.append(name)
    return problems, odd


def _half(model: Model, source: Model, taken: set[str]) -> str | None:
    """Which half of the checkpoint the source is, or the other way round; of two combined or two
    stand-alone models, none.
    """
    if bool(source.submodels) == bool(model.submodels):
        return None
    if source.submodels:
        return matching_submodel(source, model)
    architecture = source.configs[""].architecture.name
    for submodel in model.submodels:
        if submodel not in taken and model.configs[submodel].architecture.name == architecture:
            taken.add(submodel)
            return submodel
    raise UnsupportedError(
        f"{source.label}: is a {architecture} model, and no other submodel is one",
        remedy="Of two sources of one family, give the encoder first.",
    )


def _compare(name: str, mine: SourceTensor, theirs: SourceTensor) -> Difference | None:
    """The difference, or ``None`` where not even the shapes agree."""
    if (
        isinstance(theirs, ResizedTensor)
        and canonical_shape(mine)[1:] == canonical_shape(theirs)[1:]
    ):
        spec = replace(mine.tensor.spec, name=name, shape=canonical_shape(mine))
        return compare(name, mine, theirs, ResizedTensorReader(TargetTensor(spec, theirs), theirs))
    if canonical_shape(mine) != canonical_shape(theirs):
        return None
    return compare(name, mine, theirs)

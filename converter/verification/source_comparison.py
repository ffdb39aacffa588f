"""Comparison of a finished checkpoint with the checkpoints that it was made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import CROSS_ATTENTION
from converter.checkpoint.opening import open_files
from converter.errors import Problem, UnsupportedError
from converter.execution.rows import ResizedTensorReader
from converter.models.model import Model
from converter.models.source_model import SourceModel, as_part_of, move_tied_values
from converter.models.stand_alone import stand_alone_model, stand_alone_names
from converter.models.ties import resolve_as_used
from converter.plan import ResizedTensor, SourceTensor, TargetTensor
from converter.progress import ProgressCounter
from converter.storage.references import display_name
from converter.text import summarize_names
from converter.verification.comparison import canonical_shape, compare, thread_map
from converter.verification.difference_classifier import (
    UNRELATED,
    DifferenceClassifier,
    describe_difference,
)
from converter.verification.manifest import ExpectedSources, Sources, expected_sources
from converter.verification.result import (
    EQUAL,
    INITIALIZED,
    Difference,
    Findings,
    Provenance,
    tensor_problem,
)
from converter.verification.value_report import measure

_LARGEST, _LEAST = 1e4, 1e-20
"""Bounds of the largest absolute value of an initialized tensor that is not all zeros."""


def matching_submodel(combined: Model, model: Model, registry: ArchitectureRegistry) -> str | None:
    """Return the submodel of `combined` that `model` corresponds to, or ``None``.

    If both submodels have its architecture, a model with cross-attention or of a decoder's class
    is the decoder.
    """
    composite = combined.composite
    if composite is None:
        return None
    alone = {
        submodel: stand_alone_model(composite, submodel, config, registry)
        for submodel, config in combined.configs.items()
    }
    architecture = model.configs[""].architecture.name
    candidates = [
        name for name, each in alone.items() if each.config.architecture.name == architecture
    ]
    if len(candidates) < 2 or not composite.generates:
        return next(iter(candidates), None)
    encoder, decoder = (alone[submodel].model.name for submodel in candidates)
    params = model.spec.by_name
    attends = any(params[name].part == CROSS_ATTENTION for name in model.key_match.matched)
    return candidates[1 if attends or model.name == decoder != encoder else 0]


def submodel_tensors(
    model: Model, submodel: str | None, registry: ArchitectureRegistry
) -> Mapping[str, SourceTensor]:
    """Return the tensors of a model, or of one submodel by the names that it has on its own."""
    matched = model.key_match.matched
    if submodel is None:
        return matched
    names = stand_alone_names(model, submodel, registry)
    return {names[name]: each for name, each in matched.items() if name in names}


def compare_with_sources(
    model: Model,
    references: Sequence[str | Path],
    registry: ArchitectureRegistry,
    stack: ExitStack,
    jobs: int | None,
    progress: ProgressCounter,
    manifest: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Provenance], Findings]:
    """Find the source of every tensor of `model`, and compare the values.

    Of two sources with the same architecture, the encoder is first; `stack` keeps them open. Raise
    UnsupportedError if a source has an architecture that the checkpoint does not contain.
    """
    given = _open_sources(model, references, registry, stack)
    expected = expected_sources(given, manifest)
    sources, matched = expected.sources, model.key_match.matched
    shared = [name for name in matched if name in sources]
    count = progress.start_step({n: 2 * matched[n].tensor.spec.nbytes for n in shared})
    pairs = {name: (matched[name], sources[name][1]) for name in shared}
    results = thread_map(lambda n: _compare(n, *pairs[n]), shared, jobs, count, pairs.__getitem__)
    differences = dict(zip(shared, results, strict=True))
    verdicts = _verdicts(matched, sources, differences)
    new = [name for name in matched if name not in sources]
    origins = {
        name: Provenance(sources[name][0], verdicts.get(name, EQUAL), difference)
        for name, difference in differences.items()
    }
    origins |= {name: Provenance(None, INITIALIZED) for name in new}
    notes = list(_unused(model, given, expected))
    if expected.initialized:
        notes.append(f"initialized on request: {summarize_names(sorted(expected.initialized))}")
    problems = [
        *_submodels_without_source(model, verdicts, shared, sources),
        *_problems(model, verdicts, sources),
    ]
    checks = {
        "tensors equal to their source": f"{len(shared) - len(verdicts)} of {len(shared)}",
        "initialized tensors": str(len(new)),
    }
    return origins, Findings(problems, notes, checks) + _check_initialized(model, new, jobs)


def _open_sources(
    model: Model, references: Sequence[str | Path], registry: ArchitectureRegistry, stack: ExitStack
) -> dict[str, tuple[str, SourceTensor]]:
    """Map canonical names of `model` to the tensors of its sources."""
    sources: dict[str, tuple[str, SourceTensor]] = {}
    taken: set[str] = set()
    for reference in references:
        checkpoint = stack.enter_context(open_files(reference, option=""))
        if model.composite:
            checkpoint = as_part_of(checkpoint, model.composite.name, registry) or checkpoint
        source = resolve_as_used(checkpoint, registry, label=display_name(reference))
        submodel = _assign_submodel(model, source, taken, registry)
        if submodel and model.submodels:
            tensors = _tensors_as_submodel(model, source, submodel, registry)
        else:
            tensors = submodel_tensors(source, submodel, registry)
        if not any(name in model.spec.by_name for name in tensors):
            kinds = [
                " and ".join(config.architecture.name for config in each.configs.values())
                for each in (source, model)
            ]
            raise UnsupportedError(
                f"{source.label}: is {kinds[0]}, but {model.checkpoint.directory} is {kinds[1]}",
                remedy="Give the checkpoints it was made from: these have no tensor in common.",
            )
        sources |= {name: (display_name(reference), stored) for name, stored in tensors.items()}
    return sources


def _assign_submodel(
    model: Model, source: Model, taken: set[str], registry: ArchitectureRegistry
) -> str | None:
    """Return the submodel that the source was used for, or that the checkpoint was split from."""
    if bool(source.submodels) == bool(model.submodels):
        return None
    if source.submodels:
        return matching_submodel(source, model, registry)
    free = {s: model.configs[s].architecture.name for s in model.submodels if s not in taken}
    submodel = first_of_architecture(source, free)
    taken.add(submodel)
    return submodel


def first_of_architecture(source: Model, free: Mapping[str, str | None]) -> str:
    """Return the first of the free submodels (→ architecture) that the source can be of."""
    architecture = source.configs[""].architecture.name
    for submodel, name in free.items():
        if name == architecture:
            return submodel
    raise UnsupportedError(
        f"{source.label}: is a {architecture} model, and there is no submodel left that is one",
        remedy="Of two sources with the same architecture, give the encoder first.",
    )


def _tensors_as_submodel(
    model: Model, source: Model, submodel: str, registry: ArchitectureRegistry
) -> Mapping[str, SourceTensor]:
    """Return the tensors of a stand-alone model by the names that `compose` gives them.

    A decoder that was taken out of an encoder-decoder model gets the shared embeddings.
    """
    prefix = f"{submodel}."
    params = {
        param.name.removeprefix(prefix): param
        for param in model.spec.params
        if param.name.startswith(prefix)
    }
    config = source.checkpoint.config
    part = SourceModel.from_checkpoint(source.label, source.checkpoint, registry, config)
    matched = move_tied_values(part, params).key_match.matched
    return {prefix + name: stored for name, stored in matched.items()}


def _compare(name: str, mine: SourceTensor, theirs: SourceTensor) -> Difference | None:
    """Compare two tensors; ``None`` if their shapes differ."""
    shape, other = canonical_shape(mine), canonical_shape(theirs)
    if isinstance(theirs, ResizedTensor) and shape[1:] == other[1:]:
        spec = replace(mine.tensor.spec, name=name, shape=shape)
        return compare(name, mine, theirs, ResizedTensorReader(TargetTensor(spec, theirs), theirs))
    return compare(name, mine, theirs) if shape == other else None


def _verdicts(
    matched: Mapping[str, SourceTensor],
    sources: Sources,
    differences: Mapping[str, Difference | None],
) -> dict[str, str]:
    """Describe every difference: canonical name → what is wrong."""
    classifier = DifferenceClassifier({name: stored for name, (_, stored) in sources.items()})
    return {
        name: describe_difference(difference)
        if difference and isinstance(sources[name][1], ResizedTensor)
        else classifier.classify(name, matched[name], difference)
        for name, difference in differences.items()
        if difference is None or not difference.exact
    }


def _problems(model: Model, verdicts: Mapping[str, str], sources: Sources) -> Iterator[Problem]:
    """Report tensors that differ from their source, and tensors that only the source has."""
    matched = model.key_match.matched
    for name, verdict in verdicts.items():
        reference, stored = sources[name]
        expected = f"the values of {stored.tensor.spec.name} in {reference}"
        yield tensor_problem(verdict, matched[name], expected)
    mismatched = {param.name for _, param, _ in model.key_match.mismatched}  # reported already
    for name, (reference, _) in sources.items():
        if name in model.spec.by_name and name not in matched and name not in mismatched:
            yield Problem("is missing, but the source has it", tensor=name, file=reference)


def _unused(model: Model, given: Sources, expected: ExpectedSources) -> Iterator[str]:
    """Note which tensors of each source are not used in the checkpoint."""
    target = model.spec.by_name
    used = {id(stored.tensor) for name, (_, stored) in expected.sources.items() if name in target}
    unused: dict[str, list[str]] = {}
    for name, (reference, stored) in given.items():
        if id(stored.tensor) not in used and name not in expected.initialized:
            unused.setdefault(reference, []).append(name)
    for reference, names in unused.items():
        yield f"{reference}: not in the checkpoint: {summarize_names(names)}"


def _submodels_without_source(
    model: Model, verdicts: Mapping[str, str], shared: Sequence[str], sources: Sources
) -> Iterator[Problem]:
    """Report submodels of which no tensor equals its source."""
    for submodel in model.submodels or ("",):
        prefix = f"{submodel}." if submodel else ""
        names = [name for name in shared if name.startswith(prefix)]
        reported = {verdicts.get(name) for name in names}
        if len(names) > 1 and UNRELATED in reported and None not in reported:
            yield Problem(
                f"nothing of {sources[names[0]][0]} is in the checkpoint",
                str(model.key_match.matched[names[0]].tensor.path),
                submodel or None,
                found=f"all of its {len(names)} tensors differ",
                remedy="make it again with `converter compose` or `converter convert`",
            )


def _check_initialized(model: Model, names: Sequence[str], jobs: int | None) -> Findings:
    """Check that initialized tensors hold values that an initializer can make.

    transformers leaves new layer norms of some architectures, and a projection that a file lacks,
    in uninitialized memory.
    """
    matched, params = model.key_match.matched, model.spec.by_name
    stored = [matched[name] for name in names]
    statistics = thread_map(measure, stored, jobs, reads=lambda each: [each])
    problems, altered = [], []
    for name, values in zip(names, statistics, strict=True):
        largest = max(abs(values.minimum), abs(values.maximum)) if values.count else 0.0
        if largest > _LARGEST or 0 < largest < _LEAST or values.non_finite:
            more = f" and {values.non_finite:,} not finite" if values.non_finite else ""
            what = "was never initialized: no initializer makes such values"
            problem = tensor_problem(what, matched[name], None, f"values up to {largest:.3g}{more}")
            remedy = "make it again with `converter compose`, which initializes it"
            problems.append(replace(problem, remedy=remedy))
        elif params[name].rule == "constant" and values.minimum != values.maximum:
            altered.append(name)
    notes = [
        "not from a source, but not the constants of their initializer either (trained since, or"
        f" never initialized): {summarize_names(altered)}"
    ]
    return Findings(problems, notes if altered else [])

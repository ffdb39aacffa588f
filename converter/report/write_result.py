"""The terminal reports of a plan and of a finished run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from converter.file_names import MANIFEST
from converter.plan import InitializedTensor, Plan, SourceTensor, TargetTensor
from converter.report.terminal_text import (
    Part,
    bounded,
    by_reason,
    collapse_params,
    count,
    grouped,
    heading,
    indented,
    line,
    lines,
    rendered,
    shape,
    size,
    table,
    unwrapped,
)
from converter.text import split_layer_index, summarize_names

if TYPE_CHECKING:
    from converter.execution.write_checkpoint import WriteResult


@rendered
def describe_plan(result: WriteResult) -> Iterator[Part]:
    """Return the report of ``--dry-run``."""
    plan = result.plan
    yield line(f"{result.output}: planned, nothing was written", "bold")
    yield heading(count_origins(plan.tensors))
    yield indented(table(tensor_rows(plan), header=TENSOR_HEADER, repeats="as above"))
    yield from _prefixes(result)
    yield from _ignored(result)
    yield heading(f"Files: {size(plan.nbytes)} of tensors, and headers of weight files")
    files = [(file.path, size(file.nbytes), file.file_format) for file in plan.files]
    files += [(name, size(len(content)), "generated") for name, content in plan.documents.items()]
    files += [(name, size(result.sizes[name]), "copied") for name in plan.copied_files]
    files.append((MANIFEST, "", "generated"))
    yield indented(table(files, right=[1]))


TENSOR_HEADER = ("tensor", "shape", "dtype", "from", "how")


def tensor_rows(plan: Plan) -> Iterator[tuple[str, ...]]:
    """Yield the planned tensors, equal layers in one row."""
    for group in group_similar(plan.tensors):
        spec, source, change = group[0].spec, describe_source(group), describe_change(group[0])
        name = summarize_names(tensor.spec.name for tensor in group)
        yield name, shape(spec.shape), spec.dtype, f"← {source}", change


_TITLES = {"pytorch": "PyTorch", "tensorflow": "TensorFlow", "flax": "Flax"}


@rendered
def describe_result(result: WriteResult) -> Iterator[Part]:
    """Return the report of a finished run."""
    yield line(f"{result.output}: {models_of(result)}", "bold")
    files = [
        (file.path, size(result.sizes[file.path]), _TITLES[file.framework])
        for file in result.plan.files
    ]
    yield indented(table(files, right=[1]))
    yield indented(line(_documents(result)))
    yield lines(["", f"{count_origins(result.plan.tensors)}; {result.seconds:.1f} s"])
    yield from _initialized(result)
    yield from _prefixes(result)
    yield from _ignored(result)
    if isinstance(result.output, Path):
        yield heading("Load it")
        for framework, call in loading_calls(result, result.output):
            yield unwrapped(f"  {framework:<12}{call}")


def models_of(result: WriteResult) -> str:
    """Return the classes, and the frameworks that they are written for."""
    models = " and ".join(
        classes.get("pytorch") or next(iter(classes.values()), "checkpoint")
        for classes in result.classes.values()
    )
    return f"{models} for {_listed(result.frameworks)}"


def _documents(result: WriteResult) -> str:
    """List the small files; those in subdirectories are counted."""
    names = [*result.plan.documents, *result.plan.copied_files, MANIFEST]
    below = Counter(name.rpartition("/")[0] for name in names if "/" in name)
    shown = [name for name in names if "/" not in name]
    shown += [f"{directory}/ ({count(number, 'file')})" for directory, number in below.items()]
    return ", ".join(shown)


def count_origins(tensors: Iterable[TargetTensor]) -> str:
    """Count origins: ``85 tensors: 60 copied, 12 transposed, 13 initialized``."""
    origins: Counter[str] = Counter()
    cast = 0
    for tensor in tensors:
        origin = tensor.origin
        if isinstance(origin, InitializedTensor):
            origins["initialized"] += 1
            continue
        origins["copied" if origin.rearrangement.keeps_bytes else "transposed"] += 1
        cast += origin.tensor.spec.dtype != tensor.spec.dtype
    order = ("copied", "transposed", "initialized")
    counts = ", ".join(f"{origins[kind]:,} {kind}" for kind in order if origins[kind])
    return f"{count(origins.total(), 'tensor')}: {counts}" + (f"; {cast:,} cast" if cast else "")


def _initialized(result: WriteResult) -> Iterator[Part]:
    """List the initialized tensors by reason, collapsed."""
    reasons = initialized_by_reason(result.plan)
    if reasons:
        yield heading("Newly initialized weights, which need training")
    for reason, names in reasons.items():
        yield indented(line(f"{reason}:"))
        yield indented(indented(lines(bounded(collapse_params(names)))))


def initialized_by_reason(plan: Plan) -> dict[str, list[str]]:
    """Return the names of the newly initialized weights by reason."""
    return grouped(
        (tensor.origin.reason, tensor.spec.name)
        for tensor in plan.tensors
        if tensor.needs_training and isinstance(tensor.origin, InitializedTensor)
    )


def _prefixes(result: WriteResult) -> Iterator[Part]:
    """List the prefixes of the names in the sources."""
    if prefixes := result.plan.prefixes:
        yield heading("Prefixes removed from the names in the source")
        yield indented(table(prefixes.items()))


def _ignored(result: WriteResult) -> Iterator[Part]:
    """List the ignored tensors of the sources by reason, collapsed."""
    rows = [
        (label, names, reason)
        for label, ignored in result.plan.ignored.items()
        for reason, names in by_reason(ignored.items()).items()
    ]
    if rows:
        yield heading("Ignored")
        yield indented(table(rows))


def loading_calls(result: WriteResult, output: Path) -> Iterator[tuple[str, str]]:
    """Yield each framework and the call that loads its files."""
    formats = {file.file_format for file in result.plan.files}
    for directory, classes in result.classes.items():
        for framework in (name for name in result.frameworks if name in classes):
            arguments = repr(str(output / directory))
            if framework == "tensorflow" and "safetensors" in formats:
                # transformers 4 prefers safetensors to h5 and cannot load them here
                arguments += ", use_safetensors=False"
            yield _TITLES[framework], f"{classes[framework]}.from_pretrained({arguments})"


def _listed(frameworks: tuple[str, ...]) -> str:
    titles = [_TITLES[framework] for framework in frameworks]
    return titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"


def group_similar(tensors: Iterable[TargetTensor]) -> list[list[TargetTensor]]:
    """Group planned tensors that differ only in the layer index."""
    return list(grouped((_group_key(tensor), tensor) for tensor in tensors).values())


def _group_key(tensor: TargetTensor) -> tuple[object, ...]:
    """Return what the tensors of one group have in common."""
    spec, origin = tensor.spec, tensor.origin
    head, number, tail = split_layer_index(spec.name)
    if isinstance(origin, InitializedTensor):
        rule = origin.initializer
        return head, tail, spec.dtype, spec.shape, rule.rule, rule.scale, origin.reason
    stored = origin.tensor.spec
    key_head, key_number, key_tail = split_layer_index(stored.name)
    if key_number != number:  # reordered layers must not look unchanged
        return (spec.name,)
    place = (key_head, key_tail, origin.source, origin.tensor.path)
    return head, tail, spec.dtype, spec.shape, stored.dtype, origin.rearrangement, place


def describe_source(group: Sequence[TargetTensor]) -> str:
    """Describe the source of a group of similar tensors."""
    origin = group[0].origin
    if isinstance(origin, InitializedTensor):
        rule = origin.initializer
        if rule.rule == "constant":
            return f"{rule.scale:g}"
        return f"{rule.rule}({rule.scale:g}), seed {rule.seed}"
    keys = summarize_names(
        tensor.origin.tensor.spec.name
        for tensor in group
        if isinstance(tensor.origin, SourceTensor)
    )
    file = f"{origin.source} {origin.tensor.path.name}"
    names = summarize_names(tensor.spec.name for tensor in group)
    return file if names in (keys, f"{origin.source}.{keys}") else f"{file}: {keys}"


def describe_change(tensor: TargetTensor) -> str:
    """Describe how the values of a tensor are changed."""
    origin = tensor.origin
    if isinstance(origin, InitializedTensor):
        return origin.reason
    changes = [] if origin.rearrangement.keeps_bytes else [str(origin.rearrangement)]
    stored = origin.tensor.spec.dtype
    if stored != tensor.spec.dtype:
        changes.append(f"{stored} → {tensor.spec.dtype}")
    if tensor.duplicates:
        changes.append(f"checked against {count(len(tensor.duplicates), 'duplicate')}")
    return ", ".join(changes) or "copied"

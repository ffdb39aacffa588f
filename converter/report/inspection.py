"""The terminal report of ``converter inspect``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from converter.report.terminal_text import (
    MAX_LISTED,
    Part,
    bounded,
    by_reason,
    count,
    group_layers,
    heading,
    indented,
    line,
    lines,
    more_lines,
    rendered,
    shape,
    size,
    table,
    unwrapped,
)
from converter.text import collapse_ranges, inline, summarize_names
from converter.verification.result import NOTHING

if TYPE_CHECKING:
    from converter.commands.inspect import Inspection
    from converter.models.model import Model
    from converter.tensors import TensorSpec


@rendered
def describe_inspection(inspection: Inspection, *, tensors: bool = False) -> Iterator[Part]:
    """Return the report; with `tensors`, including every tensor, layers collapsed."""
    checkpoint, model = inspection.checkpoint, inspection.model
    specs = [tensor.spec for tensor in checkpoint.tensors.values()]
    name = model.name if model else "weights without a configuration"
    yield line(f"{checkpoint.reference}: {name}", "bold")
    yield indented(table(facts(inspection)))
    dtypes = Counter(spec.dtype for spec in specs)
    totals = (
        f"{count(len(specs), 'tensor')}, {count(inspection.parameters, 'parameter')}, "
        f"{size(sum(spec.nbytes for spec in specs))}: "
        + ", ".join(f"{number:,} {dtype}" for dtype, number in dtypes.items())
    )
    yield lines(["", totals])
    if inspection.state:
        yield heading(f"Error: {inspection.state.what}")
        yield unwrapped(inspection.state.step)
    elif model is None:
        yield line("To convert them, give their configuration with --config FILE.")
    if model is None:
        if tensors:
            yield heading("Tensors")
            yield indented(table(stored_rows(specs), header=("tensor", "shape", "dtype", "size")))
        return
    if not inspection.state:
        yield from _problems(model)
    if provenance := inspection.provenance:
        yield heading("How it was made, by its manifest")
        yield indented(table(provenance_rows(provenance)))
    if ignored := by_reason(model.key_match.ignored.items()):
        yield heading("Ignored")
        yield indented(table((names, reason) for reason, names in ignored.items()))
    if tensors:
        yield heading("Tensors")
        header = tensor_header(inspection)
        right = [n for n, title in enumerate(header) if title in RIGHT_ALIGNED]
        yield indented(table(tensor_rows(inspection, model), header=header, right=right))


def facts(inspection: Inspection) -> Iterator[tuple[str, str]]:
    """Yield the facts about the model and its files."""
    checkpoint, model = inspection.checkpoint, inspection.model
    if model:
        yield "architecture", checkpoint.architecture
        for submodel in model.submodels:
            yield submodel, model.configs[submodel].architecture.name
    for submodel, names in inspection.likely.model_types.items():
        yield f"likely {submodel or 'architecture'}", ", ".join(names)
    if inspection.roles:
        yield "can be", " or ".join(inspection.roles)
    files = [f"{path.name}, {size(nbytes)}" for path, nbytes in checkpoint.sizes.items()]
    yield from (("file", each) for each in bounded(files))
    if checkpoint.others:
        yield "other files", inline(checkpoint.others)
    dialect = model.key_match.dialect if model else inspection.likely.dialect
    yield "format", checkpoint.file_format + (f", {dialect} names" if dialect else "")
    if model and (prefix := model.key_match.prefix):
        yield "prefix", f"{prefix}, which is removed from the names"
    if inspection.frameworks:
        yield "converts to", ", ".join(inspection.frameworks)
    for framework, reason in model.unsupported_reasons.items() if model else ():
        yield f"not {framework}", reason
    for note in model.notes if model else () if inspection.state else checkpoint.notes:
        yield "note", note


def provenance_rows(stated: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what the manifest states."""
    seed = "" if stated["seed"] is None else f", seed {stated['seed']}"
    yield "made by", f"converter {stated['converter_version']}, {stated['command']}{seed}"
    for label, source in stated["sources"].items():
        files = source.get("files")
        parts = [str(source.get("reference")), *(files if isinstance(files, dict) else ())]
        if source.get("revision"):
            parts.insert(1, f"revision {source['revision']}")
        yield label, ", ".join(parts)
    yield "tensors", ", ".join(f"{number:,} {how}" for how, number in stated["origins"].items())
    for warning in stated["warnings"]:
        yield "warning", str(warning)


def _problems(model: Model) -> Iterator[Part]:
    problems = model.key_match.problems(model.required)
    if not problems:
        yield line("Every tensor is accounted for.", "green")
        return
    yield heading("It does not fit its configuration and mapping table")
    rows = []
    for each in problems[:MAX_LISTED]:
        details = f"expected {each.expected}, found {each.found}" if each.expected else ""
        rows.append((each.what, each.tensor or "", details))
    yield indented(table(rows))
    yield from more_lines(len(problems))


def stored_rows(specs: Iterable[TensorSpec]) -> Iterator[tuple[str, ...]]:
    """Yield tensors by their stored names, equal layers in one row."""
    by_name = {spec.name: spec for spec in specs}
    for names in group_layers(
        by_name, lambda name: (name, by_name[name].shape, by_name[name].dtype)
    ):
        first, nbytes = by_name[names[0]], sum(by_name[name].nbytes for name in names)
        yield ", ".join(collapse_ranges(names)), shape(first.shape), first.dtype, size(nbytes)


_STATISTICS = ("min", "max", "mean", "std")
RIGHT_ALIGNED = ("size", *_STATISTICS)


def tensor_header(inspection: Inspection) -> tuple[str, ...]:
    """Return the titles of the columns of `tensor_rows`."""
    statistics = _STATISTICS if inspection.statistics else ()
    origin = ("origin",) if inspection.manifest else ()
    return ("tensor", "shape", "dtype", "size", "stored as", *origin, *statistics)


def tensor_rows(inspection: Inspection, model: Model) -> Iterator[tuple[str, ...]]:
    """Yield the matched tensors in the order of the model, equal layers in one row."""
    matched = model.key_match.matched
    ordered = dict.fromkeys((*model.spec.by_name, *matched))

    def key(name: str) -> tuple[object, ...]:
        spec = matched[name].tensor.spec
        return name, spec.shape, spec.dtype, inspection.origin(name)

    for names in group_layers((name for name in ordered if name in matched), key):
        specs = [matched[name].tensor.spec for name in names]
        name, stored = summarize_names(names), summarize_names(spec.name for spec in specs)
        yield (
            name,
            shape(specs[0].shape),
            specs[0].dtype,
            size(sum(spec.nbytes for spec in specs)),
            stored if stored != name else "",
            *([inspection.origin(names[0])] if inspection.manifest else []),
            *_statistics(inspection, names),
        )


def _statistics(inspection: Inspection, names: list[str]) -> Iterator[str]:
    """Yield the statistics of several tensors together."""
    if not inspection.statistics:
        return
    total = sum((inspection.statistics[name] for name in names), NOTHING)
    for value in (total.minimum, total.maximum, total.mean, total.deviation):
        yield f"{value:.4g}"

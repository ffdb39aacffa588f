"""What a command wrote, and what to do with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from converter.file_names import MANIFEST
from converter.name_ranges import collapse_ranges
from converter.report.grouping import describe_change, describe_source, group_similar
from converter.report.rich_text import heading, indented, line, render, shape, size, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from converter.execution.write_checkpoint import WriteResult

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from converter.plan import InitializedTensor, TargetTensor
from converter.report.grouping import by_reason, collapse_params
from converter.report.rich_text import count, unwrapped

if TYPE_CHECKING:
    from rich.console import RenderableType

    from converter.execution.write_checkpoint import WriteResult


def describe_plan(result: WriteResult) -> str:
    """What ``--dry-run`` prints."""
    return render(_parts(result))


def _parts(result: WriteResult) -> Iterator[RenderableType]:
    plan = result.plan
    yield line(f"{result.output}: planned, nothing was written", "bold")
    yield heading(count_origins(plan.tensors))
    rows = []
    for group in group_similar(plan.tensors):
        first = group[0]
        name = ", ".join(collapse_ranges(tensor.spec.name for tensor in group))
        rows.append(
            (
                name,
                shape(first.spec.shape),
                first.spec.dtype,
                f"← {describe_source(group)}",
                describe_change(first),
            )
        )
    yield indented(table(rows, header=("tensor", "shape", "dtype", "from", "how")))
    yield from dropped_parts(result)
    yield heading(f"Files, {size(plan.nbytes)} of tensors")
    files = [(file.path, size(file.nbytes), file.file_format) for file in plan.files]
    files += [(name, size(len(content)), "made") for name, content in plan.documents.items()]
    files += [(name, size(result.sizes[name]), "copied") for name in plan.copied_files]
    files.append((MANIFEST, "", "made"))
    yield indented(table(files, right=[1]))


_TITLES = {"pytorch": "PyTorch", "tensorflow": "TensorFlow", "flax": "Flax"}


def describe_result(result: WriteResult) -> str:
    """The summary of a finished run."""
    return render(_parts_result(result))


def _parts_result(result: WriteResult) -> Iterator[RenderableType]:
    made = " and ".join(
        classes.get("pytorch") or next(iter(classes.values()), "checkpoint")
        for classes in result.classes.values()
    )
    yield line(f"{result.output}: {made} for {_listed(result.frameworks)}", "bold")
    files = [
        (file.path, size(result.sizes[file.path]), _TITLES[file.framework])
        for file in result.plan.files
    ]
    yield indented(table(files, right=[1]))
    yield indented(line(_documents(result)))
    yield line(f"\n{count_origins(result.plan.tensors)}; {result.seconds:.1f} s")
    yield from fresh_parts(result)
    yield from dropped_parts(result)
    if isinstance(result.output, Path):
        yield heading("Load it")
        yield from _loading(result, result.output)


def _documents(result: WriteResult) -> str:
    """The small files, those in a directory of their own counted."""
    names = [*result.plan.documents, *result.plan.copied_files, MANIFEST]
    below = Counter(name.rpartition("/")[0] for name in names if "/" in name)
    shown = [name for name in names if "/" not in name]
    shown += [f"{directory}/ ({count(number, 'file')})" for directory, number in below.items()]
    return ", ".join(shown)


def count_origins(tensors: Iterable[TargetTensor]) -> str:
    """How many tensors came from where: ``85 tensors: 60 copied, 12 rearranged, 13 fresh``."""
    copied = rearranged = cast = fresh = 0
    for tensor in tensors:
        if isinstance(tensor.origin, InitializedTensor):
            fresh += 1
            continue
        if tensor.origin.rearrangement.keeps_bytes:
            copied += 1
        else:
            rearranged += 1
        cast += tensor.origin.tensor.spec.dtype != tensor.spec.dtype
    found = [
        f"{number:,} {what}"
        for number, what in (
            (copied, "copied"),
            (rearranged, "rearranged"),
            (fresh, "initialised"),
        )
        if number
    ]
    total = copied + rearranged + fresh
    return f"{count(total, 'tensor')}: {', '.join(found)}" + (f"; {cast:,} cast" if cast else "")


def fresh_parts(result: WriteResult) -> Iterator[RenderableType]:
    """Which tensors were drawn anew and why, folded."""
    reasons: dict[str, list[str]] = {}
    for tensor in result.plan.tensors:
        if isinstance(tensor.origin, InitializedTensor):
            reasons.setdefault(tensor.origin.reason, []).append(tensor.spec.name)
    if reasons:
        yield heading("Fresh weights, which need training")
    for reason, names in reasons.items():
        yield indented(line(f"{reason}:"))
        yield indented(indented(line("\n".join(collapse_params(names)))))


def dropped_parts(result: WriteResult) -> Iterator[RenderableType]:
    """Which tensors of the sources were left out and why, folded."""
    rows = [
        (source.label, ", ".join(names), reason)
        for source in result.sources
        for reason, names in by_reason(source.report.dropped.items()).items()
    ]
    if rows:
        yield heading("Left out")
        yield indented(table(rows))


def _loading(result: WriteResult, output: Path) -> Iterator[RenderableType]:
    """For each framework the call that loads its file."""
    containers = {file.file_format for file in result.plan.files}
    for directory, classes in result.classes.items():
        for framework in (name for name in result.frameworks if name in classes):
            arguments = repr(str(output / directory))
            if framework == "tensorflow" and "safetensors" in containers:
                # transformers 4 prefers safetensors to h5, and fails on them
                arguments += ", use_safetensors=False"
            call = f"{classes[framework]}.from_pretrained({arguments})"
            yield unwrapped(f"  {_TITLES[framework]:<12}{call}")


def _listed(frameworks: tuple[str, ...]) -> str:
    titles = [_TITLES[framework] for framework in frameworks]
    return titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"

"""Public values on one screen: text for ``repr``, tables for notebooks.

`view` describes a value of any public type; `text` and `html` render the description. Its types
inherit `converter.display.Displayed`.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, fields, is_dataclass
from functools import singledispatch
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

from converter.commands.check_table import TableCheck
from converter.commands.diff import Comparison
from converter.commands.families import Families
from converter.commands.inspect import Inspection
from converter.execution.write_checkpoint import WriteResult
from converter.frameworks import KerasWeights, OpenedCheckpoint
from converter.plan import Plan, TargetTensor
from converter.python_calls import in_python
from converter.recipes.job import STATUSES, JobResult, RunSummary
from converter.report import families as catalog
from converter.report import inspection as inspected
from converter.report import verification as verified
from converter.report import write_result as written
from converter.report.terminal_text import collapse_params, count, shape, size
from converter.storage.hub_upload import PushResult
from converter.storage.references import display_name
from converter.text import printable
from converter.verification.result import Verification

MAX_LINES = 20
MAX_CHARACTERS = 1_500
"""Of a ``repr``, which is to fit a screen."""
_WIDTH = 96
_MAX_TITLE, _MAX_VALUE = 180, 170
MAX_ROWS = 40
"""Rows of a table in a notebook."""
MAX_HTML_CELL = 400

Rows = Iterable[Sequence[str]]


@dataclass(frozen=True)
class Table:
    """Rows with a title and the titles of their columns."""

    title: str
    rows: Rows
    header: Sequence[str] = ()
    right: Sequence[int] = ()
    """Indices of right-aligned columns."""
    folded: bool = False
    """If true, a notebook shows the title, and the rows when it is clicked."""


@dataclass(frozen=True)
class View:
    """What is shown of a value."""

    title: str
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    """In notebooks only."""
    next: Sequence[str] = ()
    """Expressions to evaluate next."""


def text(value: Any) -> str:
    """Return the ``repr`` of a value: at most 20 lines and 1,500 characters."""
    shown = view(value)
    lines = [f"<{type(value).__name__}> {_cut(shown.title, _MAX_TITLE)}".rstrip()]
    last = [f"  see {', '.join(shown.next)}"] if shown.next else []
    facts = [(_cut(key, 48), _cut(said, _MAX_VALUE)) for key, said in shown.facts]
    width = min(max((len(key) for key, _ in facts), default=0), 48)
    room = MAX_CHARACTERS - sum(map(len, (*lines, *last))) - 40
    for number, (key, said) in enumerate(facts):
        added = textwrap.wrap(
            said,
            _WIDTH,
            break_on_hyphens=False,
            initial_indent=f"  {key:{width}}  ",
            subsequent_indent=" " * (width + 4),
        )
        room -= sum(len(line) + 1 for line in added)
        if room < 0 or len(lines) + len(added) > MAX_LINES - 2:
            lines.append(f"  … and {len(facts) - number} more")
            break
        lines += added
    return "\n".join((*lines, *last))


def _cut(text: str, limit: int) -> str:
    """Return a line that is safe to show, of at most that many characters."""
    text = in_python(printable(text))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def html(value: Any) -> str | None:
    """Return tables with everything escaped, without scripts, colored by the notebook."""
    if view.dispatch(type(value)) is view.dispatch(object):
        return None
    shown = view(value)
    parts = [f"<p><b>{_escaped(shown.title)}</b></p>"]
    tables = [Table("", shown.facts)] if shown.facts else []
    for table in (*tables, *shown.tables):
        rows = [*islice(table.rows, MAX_ROWS + 1)]
        body = _html_table(table, rows[:MAX_ROWS])
        if len(rows) > MAX_ROWS:
            body += "<p>… and more: <code>.to_dict()</code> has all</p>"
        if table.folded:
            summary = f"<summary>{_escaped(table.title)}</summary>"
            body = f"<details>{summary}{body}</details>" if rows else ""
        elif table.title:
            body = f"<p>{_escaped(table.title)}</p>{body}" if rows else ""
        parts.append(body)
    if shown.next:
        calls = ", ".join(f"<code>{_escaped(each)}</code>" for each in shown.next)
        parts.append(f"<p>see {calls}</p>")
    return f"<div>{''.join(parts)}</div>"


def _html_table(table: Table, rows: Sequence[Sequence[str]]) -> str:
    """Return a table; only alignment is set, since the notebook has colors for dark and light."""

    def cells(tag: str, row: Sequence[str]) -> str:
        sides = ("right" if number in table.right else "left" for number in range(len(row)))
        return "".join(
            f'<{tag} style="text-align: {side}">{_escaped(cell)}</{tag}>'
            for side, cell in zip(sides, row, strict=True)
        )

    head = f"<thead><tr>{cells('th', table.header)}</tr></thead>" if table.header else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _escaped(text: str) -> str:
    return escape(_cut(text, MAX_HTML_CELL))


@singledispatch
def view(value: Any) -> View:
    """Return the description of a value; of one without a function here, its short fields."""
    facts = []
    for name in (each.name for each in fields(value)) if is_dataclass(value) else ():
        held = getattr(value, name)
        if name.startswith("_") or held is None or (isinstance(held, Sized) and not held):
            continue
        if isinstance(held, str | int | float | Path):
            facts.append((name, str(held)))
        elif isinstance(held, Sized):
            facts.append((name, f"{len(held):,} {'entry' if len(held) == 1 else 'entries'}"))
        else:
            facts.append((name, f"<{type(held).__name__}>"))
    return View("", facts)


@view.register
def _(result: WriteResult) -> View:
    plan = result.plan
    output = display_name(str(result.output))
    warnings = [*enumerate_facts("warning", result.warnings)]
    facts = [
        ("tensors", written.count_origins(plan.tensors)),
        *_files(result),
        *(
            ("needs training", f"{count(len(names), 'tensor')}: {reason}")
            for reason, names in written.initialized_by_reason(plan).items()
        ),
        *warnings,
    ]
    tables = [Table("Tensors", written.tensor_rows(plan), written.TENSOR_HEADER, folded=True)]
    if not result.written:
        title = f"{output}: planned, nothing was written; {written.models_of(result)}"
        return View(title, facts, tables, (".plan", ".warnings", ".to_dict()"))
    if isinstance(result.output, Path):
        tables.insert(0, Table("Load it", written.loading_calls(result, result.output)))
    verify = f"converter.verify({output!r})"
    title = f"{output}: {written.models_of(result)}, {result.seconds:.1f} s"
    return View(title, facts, tables, (verify, ".plan", ".warnings", ".to_dict()"))


def enumerate_facts(name: str, texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each text as a fact of that name, at most four of them."""
    most = 4
    listed = [*texts]
    yield from ((name, each) for each in listed[:most])
    if len(listed) > most:
        yield name, f"… and {len(listed) - most} more"


def _files(result: WriteResult) -> Iterator[tuple[str, str]]:
    for file in result.plan.files[:4]:
        nbytes = result.sizes.get(file.path, file.nbytes)
        yield "file", f"{file.path}, {size(nbytes)}, {file.framework}"
    if (more := len(result.plan.files) - 4) > 0:
        yield "file", f"… and {more} more"


@view.register
def _(plan: Plan) -> View:
    facts = [
        ("tensors", written.count_origins(plan.tensors)),
        *enumerate_facts("file", (f"{f.path}, {size(f.nbytes)}" for f in plan.files)),
        ("documents", ", ".join((*plan.documents, *plan.copied_files))),
        *((f"prefix of {label}", prefix) for label, prefix in plan.prefixes.items()),
        *(
            (f"ignored of {label}", f"{len(names):,}")
            for label, names in plan.ignored.items()
            if names
        ),
        *enumerate_facts("warning", plan.warnings),
    ]
    rows = written.tensor_rows(plan)
    title = f"{plan.command}, {size(plan.nbytes)} of tensors"
    tables = [Table("", rows, written.TENSOR_HEADER)]
    return View(title, facts, tables, (".tensors", ".files", ".documents", ".ignored"))


@view.register
def _(tensor: TargetTensor) -> View:
    spec = tensor.spec
    source = f"← {written.describe_source([tensor])}, {written.describe_change(tensor)}"
    return View(f"{spec.name} {spec.dtype} {list(spec.shape)} {source}")


@view.register
def _(result: Inspection) -> View:
    checkpoint, model = result.checkpoint, result.model
    specs = [tensor.spec for tensor in checkpoint.tensors.values()]
    totals = f"{count(len(specs), 'tensor')}, {size(sum(spec.nbytes for spec in specs))}"
    dtypes = Counter(spec.dtype for spec in specs)
    problems = model.key_match.problems(model.required) if model else []
    facts = [
        ("tensors", f"{totals}: {', '.join(f'{n:,} {dtype}' for dtype, n in dtypes.items())}"),
        *inspected.facts(result),
        *([("fits", "every tensor is accounted for")] if result.fits else []),
        *enumerate_facts("problem", map(str, problems)),
    ]
    if result.state:
        facts += [("cannot be read", result.state.what), ("what to do", result.state.step)]
    tables = [Table("Problems", ([str(each)] for each in problems))] if len(problems) > 4 else []
    if provenance := result.provenance:
        tables.append(Table("How it was made", inspected.provenance_rows(provenance), folded=True))
    if model:
        rows, header = inspected.tensor_rows(result, model), inspected.tensor_header(result)
        right = [n for n, title in enumerate(header) if title in inspected.RIGHT_ALIGNED]
        tables.append(Table("Tensors", rows, header, right, folded=True))
    else:
        header = ("tensor", "shape", "dtype", "size")
        tables.append(Table("Tensors", inspected.stored_rows(specs), header, (3,), folded=True))
    title = f"{checkpoint.reference}: {model.name if model else 'weights without a configuration'}"
    return View(title, facts, tables, (".fits", ".frameworks", ".model", ".to_dict()"))


@view.register
def _(result: Verification) -> View:
    problems = verified.merge_layers(result.problems)
    verdict = "verified" if result.verified else f"NOT verified, {count(len(problems), 'problem')}"
    facts = [
        *enumerate_facts("problem", map(str, problems)),
        *result.checks.items(),
        *enumerate_facts("note", result.notes),
    ]
    tables = []
    if len(problems) > 4:
        header = ("problem", "file", "tensor", "expected", "found", "what to do")
        rows = (
            [each or "" for each in (p.what, p.file, p.tensor, p.expected, p.found, p.remedy)]
            for p in problems
        )
        tables.append(Table("Problems", rows, header))
    if result.origins:
        tables.append(Table("Where the values come from", verified.origin_rows(result)))
    if len(result.notes) > 4:
        tables.append(Table("Notes", ([note] for note in result.notes), folded=True))
    attributes = (".verified", ".problems", ".checks", ".origins", ".to_dict()")
    return View(f"{result.directory}: {verdict}", facts, tables, attributes)


@view.register
def _(result: Comparison) -> View:
    title, counts = verified.summarize_comparison(result)
    only = ((result.first, result.only_first), (result.second, result.only_second))
    rest = [(f"only in {where}", names) for where, names in only if names]
    rest += [(f"not compared in {where}", names) for where, names in result.unknown.items()]
    facts = [("tensors", counts)]
    facts += [(what, ", ".join(collapse_params(names))) for what, names in rest if names]
    facts += [
        ("shapes", f"{name}: {shape(one)} and {shape(two)}")
        for name, (one, two) in islice(result.shapes.items(), 4)
    ]
    rows = [*verified.difference_rows(result.differing)]
    differing = (f"{name}, {of}, by at most {most}" for name, of, most, *_ in rows)
    facts += enumerate_facts("differing", differing)
    tables = [Table("Differing", rows, verified.HEADER, (1, 2, 3, 4))] if result.differing else []
    attributes = (".equal", ".differing", ".only_first", ".shapes", ".to_dict()")
    return View(title, facts, tables, attributes)


@view.register
def _(result: PushResult) -> View:
    facts = [
        (name, f"{count(len(files), 'file')}: {', '.join(files)}" if files else "")
        for name in ("sent", "unchanged", "kept")
        if (files := getattr(result, name))
    ]
    what = f"pull request {result.pull_request}" if result.pull_request else result.revision
    title = f"{result.url}: {what}, {'up to date' if not result.sent else 'pushed'}"
    return View(title, facts, (), (".url", ".commit", ".sent", ".to_dict()"))


@view.register
def _(result: Families) -> View:
    described = result.to_dict()
    if result.name is None:
        names = ("architectures", "composites", "presets")
        facts = [(name, f"{len(described[name])}: {', '.join(described[name])}") for name in names]
        rows = catalog.catalog_rows(described["architectures"], ", ".join)
        table = Table("Architectures", rows, catalog.CATALOG_HEADER)
        calls = (".architectures", ".composites", ".presets", "converter.families(NAME)")
        return View("supported models", facts, [table], calls)
    title = f"{result.name}: {described['title']}"
    if "composite" in described:
        facts = [("submodels", ", ".join(described["submodels"])), *described["classes"].items()]
    else:
        facts = [
            (name, f"{model} {rest}") for name, model, rest in catalog.role_rows(described["roles"])
        ]
        facts += [
            ("class", f"{name}: {', '.join((*model['parts'], *model['heads']))}")
            for name, model in described["models"].items()
        ]
    return View(title, facts, (), (".to_dict()",))


@view.register
def _(result: TableCheck) -> View:
    if result.draft is not None:
        lines = [line for line in result.draft.splitlines() if line][:8]
        return View("draft of a table", [("", line) for line in lines], (), ("print(….draft)",))
    facts = [(file, catalog.table_verdict(result, file)) for file in result.problems]
    listed = ([file, str(each)] for file, problems in result.problems.items() for each in problems)
    title = "valid" if result.valid else "NOT valid"
    calls = (".valid", ".problems", ".finished", ".marks")
    return View(title, facts, [Table("Problems", listed)], calls)


@view.register
def _(result: RunSummary) -> View:
    counts = ((status, result.count(status)) for status in STATUSES)
    title = ", ".join(f"{number} {status}" for status, number in counts if number)
    facts = [(each.job.name, f"{each.status}{_error(each)}") for each in result.results]
    rows = (
        [
            *(each.job.name, each.job.command, display_name(each.job.output), each.status),
            *(f"{each.seconds:.1f} s", _error(each).removeprefix(": ")),
        ]
        for each in result.results
    )
    header = ("job", "command", "output", "status", "time", "error")
    tables = [Table("", rows, header, (4,))]
    return View(title or "no jobs", facts, tables, (".succeeded", ".results", ".to_dict()"))


def _error(result: JobResult) -> str:
    return f": {result.error.message}" if result.error else ""


@view.register
def _(result: JobResult) -> View:
    job = result.job
    what = f"{job.command} to {display_name(job.output)}"
    return View(f"{job.name}: {what}, {result.status}{_error(result)}")


@view.register
def _(weights: KerasWeights) -> View:
    title = f"{count(len(weights), 'variable')} of {weights.class_name}"
    facts = enumerate_facts("variable", weights)
    return View(title, [*facts], (), ('["name"]', ".assign_to(model)"))


@view.register
def _(opened: OpenedCheckpoint) -> View:
    classes = [(framework, name) for framework, name in opened.classes.items()]
    facts = [("format", f"{opened.file_format}, {opened.dialect} names"), *classes]
    facts += [*enumerate_facts("note", opened.notes)]
    facts += [*enumerate_facts("problem", map(str, opened.problems))]
    rows = (
        [name, shape(tensor.shape), str(tensor.dtype), tensor.stored_name]
        for name, tensor in opened.items()
    )
    tables = [Table("Tensors", rows, ("tensor", "shape", "dtype", "stored as"), folded=True)]
    title = f"{opened.reference}: {opened.class_name}, {count(len(opened), 'tensor')}"
    return View(title, facts, tables, ('["name"]', ".to_torch()", ".to_flax()"))

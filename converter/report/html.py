"""A verification report as one self-contained HTML page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from converter._version import __version__
from converter.report.terminal_text import count, group_layers, shape
from converter.report.verification import HEADER, difference_rows, merge_layers
from converter.text import collapse_ranges, printable
from converter.verification.result import (
    NOTHING,
    ReportSection,
    TensorSummary,
    ValueOrigin,
    ValueReport,
    Verification,
)


def histogram(counts: Sequence[int], low: float, high: float, label: str, color: str) -> str:
    """Draw a filled outline of `counts` as SVG, scaled to the fullest bin, with a mark at zero.

    The bins range from `low` to `high`; `label` is for screen readers, `color` is a CSS class.
    """
    width, height = 180, 56
    top = max(counts, default=0) or 1
    step = width / max(1, len(counts))
    floor = height - 1
    points = [f"0,{floor}"]
    for number, height_of_bin in enumerate(counts):
        y = floor - (floor - 2) * height_of_bin / top
        points += [f"{number * step:.1f},{y:.1f}", f"{(number + 1) * step:.1f},{y:.1f}"]
    points.append(f"{width},{floor}")
    zero = ""
    if low < 0 < high:
        x = width * -low / (high - low)
        zero = f'<line class="zero" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{floor}"/>'
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f'<polygon class="{escape(color)}" points="{" ".join(points)}"/>'
        f'<path class="axis" d="M0 {floor}.5H{width}"/>{zero}</svg>'
    )


def bar(shares: Mapping[ValueOrigin, int], classes: Mapping[ValueOrigin, str]) -> str:
    """Draw one horizontal bar as SVG, its parts as wide as their shares, colored by `classes`."""
    width, total = 640, sum(shares.values()) or 1
    parts, labels, x = [], [], 0.0
    for origin, amount in shares.items():
        length = width * amount / total
        label = f"{_text(origin.label)}: {amount:,} values ({amount / total:.1%})"
        labels.append(label)
        parts.append(
            f'<rect class="{escape(classes[origin])}" x="{x:.1f}" y="0" width="{length:.1f}"'
            f' height="18"><title>{label}</title></rect>'
        )
        x += length
    return (
        f'<svg viewBox="0 0 {width} 18" preserveAspectRatio="none" role="img"'
        f' aria-label="{"; ".join(labels)}">{"".join(parts)}</svg>'
    )


MAX_PROBLEMS = 300
"""Problems that the page shows, after collapsing; ``--json`` has all."""

_STYLE = Path(__file__).with_name("page.css")

# Whatever a hostile name contains, the page must not load, send or run anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(result: Verification) -> str:
    """Return the HTML of the page, including the value report if there is one."""
    title = _text(Path(result.directory).name or result.directory)
    body = "\n".join(_body(result))
    verdict = "verified" if result.verified else "not verified"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{title}: {verdict}</title>\n<style>\n{_STYLE.read_text('utf-8')}</style>\n"
        f"</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return escape(printable(text))


def _name(text: str) -> str:
    """Return a name that is wrapped after dots and slashes rather than in a word."""
    broken = re.sub(r"([./_])(?=\w)", r"\1<wbr>", _text(text))
    return f'<span class="name">{broken}</span>'


def _body(result: Verification) -> Iterator[str]:
    yield from _head(result)
    yield from _problems(result)
    yield from _differences(result)
    if result.notes:
        yield "<h2>Warnings and notes</h2><ul>"
        yield from (f"<li>{_text(text)}</li>" for text in result.notes)
        yield "</ul>"
    yield "<h2>Checks</h2>"
    yield from _table(result.checks.items(), kind="checks")
    if report := result.value_report:
        colors = _colors(report)
        yield from _origins(report, colors)
        for section in report.sections:
            yield from _section(section, report, colors)
        yield from _tensors(report, colors)
    made_by = f"Made by converter {__version__} on {datetime.now(UTC):%Y-%m-%d at %H:%M} UTC."
    made_by += " This page loads nothing and runs no scripts."
    yield f'<p class="dim">{made_by}</p>'


def _head(result: Verification) -> Iterator[str]:
    report = result.value_report
    problems = count(len(result.problems), "problem")
    badge = "verified" if result.verified else f"not verified: {problems}"
    yield f"<h1>{_text(result.directory)}</h1>"
    yield f'<p><span class="badge {"good" if result.verified else "bad"}">{badge}</span>'
    yield f"{_text(report.model if report else 'could not be read')}</p>"
    facts: dict[str, str] = {}
    if report:
        facts["parameters"] = f"{report.parameters:,}"
        facts["tensors"] = f"{len(report.tensors):,}"
        counts = Counter[str]()
        for summary in report.tensors.values():
            counts[summary.origin.kind] += summary.stored.tensor.spec.size
        if not counts["unknown"]:
            facts["initialized"] = f"{counts['initialized'] / max(1, counts.total()):.1%}"
    yield '<dl class="facts">'
    yield from (f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in facts.items())
    files = _text(", ".join(result.files))
    yield f'<div><dt>weight files</dt><dd class="small">{files}</dd></div></dl>'


def _problems(result: Verification) -> Iterator[str]:
    if not result.problems:
        return
    problems = merge_layers(result.problems)
    yield '<h2>Problems</h2><ul class="findings">'
    for problem in problems[:MAX_PROBLEMS]:
        yield f"<li><b>{_text(problem.what)}</b>"
        for word, part in (("", problem.tensor), ("in ", problem.file)):
            yield f"<span>{word}{_name(part)}</span>" if part else ""
        for word, part in (("expected", problem.expected), ("found", problem.found)):
            yield f'<span class="dim">{word} {_text(part)}</span>' if part else ""
        yield f"<span>→ {_text(problem.remedy)}</span></li>" if problem.remedy else "</li>"
    yield "</ul>"
    if (more := len(problems) - MAX_PROBLEMS) > 0:
        yield f"<p>… and {more:,} more; --json lists all.</p>"


def _differences(result: Verification) -> Iterator[str]:
    """Show the differences between the checkpoint and its sources."""
    differences = {
        name: origin.difference
        for name, origin in result.origins.items()
        if origin.difference and not origin.difference.exact
    }
    if differences:
        yield (
            '<h2>Differences from the sources</h2><p class="dim">max and mean are those of the'
            " absolute differences of all values of a tensor. A cosine similarity of 1 means that"
            " the tensors are equal up to a factor.</p>"
        )
        rows = difference_rows(differences)
        cells = ((_name(name), *map(_text, rest)) for name, *rest in rows)
        yield from _table(cells, HEADER, right=(1, 2, 3, 4), escaped=True)


def _colors(report: ValueReport) -> dict[ValueOrigin, str]:
    """Map each origin to its CSS class."""
    colors: dict[ValueOrigin, str] = {}
    for origin in dict.fromkeys(each for shares in report.origins.values() for each in shares):
        number = sum(color.startswith("c") for color in colors.values())
        special = {"initialized": "initialized", "different": "wrong"}
        colors[origin] = special.get(origin.kind, f"c{min(number, 3)}")
    return colors


def _origins(report: ValueReport, colors: Mapping[ValueOrigin, str]) -> Iterator[str]:
    yield '<h2>Origins of the values</h2><p class="keys">'
    for origin, color in colors.items():
        yield f'<span><span class="dot {color}"></span>{_text(origin.label)}</span>'
    yield '</p><div class="shares">'
    for submodel, shares in report.origins.items():
        total = f"{sum(shares.values()):,} values"
        yield f'<span>{_text(submodel)}</span><span class="n">{total}</span>'
        yield bar(shares, colors)
    yield "</div>"


def _section(
    section: ReportSection, report: ValueReport, colors: Mapping[ValueOrigin, str]
) -> Iterator[str]:
    first = section.layers[0]
    yield f"<h2>{_text(section.title)}</h2>"
    yield (
        '<p class="dim">Distributions of the values of the matrices in each layer, all on one'
        f" scale from {first.low:.3g} to {first.high:.3g}; outliers are counted in the first and"
        ' last bin. The dashed line is zero, std the standard deviation.</p><div class="grid">'
    )
    for layer in section.layers:
        values = layer.statistics
        classes = [colors[report.tensors[name].origin] for name in layer.names]
        color = "wrong" if "wrong" in classes else classes[0]
        label = f"values of {printable(layer.title)}"
        matrices = f"{len(layer.names):,} {'matrix' if len(layer.names) == 1 else 'matrices'}"
        yield (
            f"<figure>{histogram(layer.histogram, layer.low, layer.high, label, color)}"
            f'<div class="ends"><span>{layer.low:.3g}</span><span>{layer.high:.3g}</span></div>'
            f"<figcaption><b>{_name(layer.title)}</b>"
            f'<span class="dim">{matrices}<br>mean {values.mean:.2g}, std {values.deviation:.3g}'
            f"<br>min {values.minimum:.3g}, max {values.maximum:.3g}</span>"
            "</figcaption></figure>"
        )
    yield "</div>"


def _tensors(report: ValueReport, colors: Mapping[ValueOrigin, str]) -> Iterator[str]:
    def key(item: tuple[str, TensorSummary]) -> tuple[object, ...]:
        spec = item[1].stored.tensor.spec
        return item[0], spec.shape, spec.dtype, item[1].origin

    rows = []
    for group in group_layers(report.tensors.items(), key):
        first = group[0][1]
        total = sum((summary.statistics for _, summary in group), NOTHING)
        numbers = (total.minimum, total.maximum, total.mean, total.deviation)
        statistics = [f"{value:.4g}" for value in numbers] if total.count else [""] * 4
        name, spec = ", ".join(collapse_ranges(n for n, _ in group)), first.stored.tensor.spec
        dot = f'<span class="dot {colors[first.origin]}"></span>'
        origin = f"{dot}{_name(first.origin.label)}"
        rows.append((_name(name), shape(spec.shape), spec.dtype, origin, *statistics))
    header = ("tensor", "shape", "dtype", "origin", "min", "max", "mean", "std")
    yield (
        '<h2>Tensors</h2><p class="dim">Layers that differ only in their index are one row; min,'
        " max, mean and std (standard deviation) are those of all of their values.</p>"
    )
    yield from _table(rows, header, right=(4, 5, 6, 7), nowrap=(1, 2), escaped=True)


def _table(
    rows: Iterable[Sequence[str]],
    header: Sequence[str] = (),
    *,
    right: Sequence[int] = (),
    nowrap: Sequence[int] = (),
    kind: str = "rows",
    escaped: bool = False,
) -> Iterator[str]:
    """Yield the HTML of a table of CSS class `kind`, whose cells may be escaped already.

    `right` and `nowrap` are indices of right-aligned and of unwrapped columns.
    """
    style = dict.fromkeys(right, ' class="n"') | dict.fromkeys(nowrap, ' class="nowrap"')
    yield f'<table class="{kind}">'
    if header:
        titles = (f'<th scope="col"{style.get(n, "")}>{cell}</th>' for n, cell in enumerate(header))
        yield f"<thead><tr>{''.join(titles)}</tr></thead>"
    yield "<tbody>"
    for cells in rows:
        parts = []
        for number, cell in enumerate(cells):
            title = f' data-of="{header[number]}"' if number and header else ""
            text = cell if escaped else _text(cell)
            parts.append(f"<td{style.get(number, '')}{title}>{text}</td>")
        yield f"<tr>{''.join(parts)}</tr>"
    yield "</tbody></table>"

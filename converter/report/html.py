"""A verification as one self-contained page of HTML, for people to look at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from converter._version import __version__
from converter.name_ranges import collapse_ranges, split_layer_index
from converter.report.rich_text import count, printable, shape
from converter.report.verification import HEADER, merge_layers, rows
from converter.verification.value_report import NOTHING, UNKNOWN, is_fresh, is_wrong

if TYPE_CHECKING:
    from converter.verification.result import Verification
    from converter.verification.value_report import Layer, ReportSection, ValueReport


def histogram(
    counts: Sequence[int],
    low: float,
    high: float,
    label: str,
    colour: str,
    *,
    width: int = 180,
    height: int = 56,
) -> str:
    """A filled outline of `counts`, as high as the fullest bin, on its axis, with a mark at zero.

    Args:
        counts: one per bin.
        low: left end of the first bin.
        high: right end of the last.
        label: what a screen reader says.
        colour: the CSS class that colours it.
        width: in units of the picture, which is as wide as there is room for.
        height: in the same units.

    """
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
        f'<polygon class="{escape(colour)}" points="{" ".join(points)}"/>'
        f'<path class="axis" d="M0 {floor}.5H{width}"/>{zero}</svg>'
    )


def bar(shares: Mapping[str, int], classes: Mapping[str, str], *, width: int = 640) -> str:
    """One horizontal bar, its parts as wide as their shares.

    Args:
        shares: part → amount.
        classes: part → the CSS class that colours it.
        width: in units of the picture.

    """
    total = sum(shares.values()) or 1
    parts, told, x = [], [], 0.0
    for name, amount in shares.items():
        length = width * amount / total
        part = f"{escape(name)}: {amount:,} values ({amount / total:.1%})"
        told.append(part)
        parts.append(
            f'<rect class="{escape(classes[name])}" x="{x:.1f}" y="0" width="{length:.1f}"'
            f' height="18"><title>{part}</title></rect>'
        )
        x += length
    return (
        f'<svg viewBox="0 0 {width} 18" preserveAspectRatio="none" role="img"'
        f' aria-label="{"; ".join(told)}">{"".join(parts)}</svg>'
    )


MAX_FINDINGS = 300
"""Findings that the page shows, once folded; ``--json`` has all."""

_STYLE = Path(__file__).with_name("page.css")

# Whatever a hostile name might smuggle in: nothing may be loaded, sent or run.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(found: Verification, portrait: ValueReport | None) -> str:
    """The text of the page.

    Args:
        found: what was proven.
        portrait: what the checkpoint looks like, if it could be read.

    """
    title = _text(Path(found.directory).name or found.directory)
    body = "\n".join(_body(found, portrait))
    verdict = "verified" if found.verified else "not verified"
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
    """A name that may be broken after its dots and strokes, rather than in a word."""
    broken = re.sub(r"([./_])(?=\w)", r"\1<wbr>", _text(text))
    return f'<span class="name">{broken}</span>'


def _body(found: Verification, portrait: ValueReport | None) -> Iterator[str]:
    colours = _colours(portrait) if portrait else {}
    yield from _head(found, portrait)
    yield from _findings(found)
    yield from _differences(found)
    if found.notes:
        yield "<h2>Warnings and notes</h2><ul>"
        yield from (f"<li>{_text(text)}</li>" for text in found.notes)
        yield "</ul>"
    yield f"<h2>What was {'proven' if found.verified else 'looked at'}</h2>"
    yield from _table(found.checks.items(), kind="checks")
    if portrait:
        yield from _origins(portrait, colours)
        for panel in portrait.panels:
            yield from _panel(panel, portrait, colours)
        yield from _tensors(portrait, colours)
    yield f'<p class="dim">Made by converter {__version__}. Nothing is loaded, nothing runs.</p>'


def _head(found: Verification, portrait: ValueReport | None) -> Iterator[str]:
    number = len(found.problems)
    badge = "verified" if found.verified else f"not verified: {count(number, 'problem')}"
    yield f"<h1>{_text(found.directory)}</h1>"
    yield f'<p><span class="badge {"good" if found.verified else "bad"}">{badge}</span>'
    yield f"{_text(portrait.model if portrait else 'could not be read')}</p>"
    files = ", ".join(found.formats)
    facts: dict[str, str] = {}
    if portrait:
        facts["parameters"] = f"{portrait.parameters:,}"
        facts["tensors"] = f"{len(portrait.tensors):,}"
        shares = [pair for each in portrait.origins.values() for pair in each.items()]
        if all(origin != UNKNOWN for origin, _ in shares):
            fresh = sum(much for origin, much in shares if is_fresh(origin))
            facts["drawn fresh"] = f"{fresh / max(1, sum(much for _, much in shares)):.1%}"
    yield '<dl class="facts">'
    yield from (f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in facts.items())
    yield f'<div><dt>weight files</dt><dd class="small">{_text(files)}</dd></div></dl>'


def _findings(found: Verification) -> Iterator[str]:
    if not found.problems:
        return
    problems = merge_layers(found.problems)
    yield '<h2>What is wrong</h2><ul class="findings">'
    for problem in problems[:MAX_FINDINGS]:
        yield f"<li><b>{_text(problem.what)}</b>"
        for word, part in (("", problem.tensor), ("in ", problem.file)):
            yield f"<span>{word}{_name(part)}</span>" if part else ""
        for word, part in (("expected", problem.expected), ("found", problem.found)):
            yield f'<span class="dim">{word} {_text(part)}</span>' if part else ""
        yield f"<span>→ {_text(problem.remedy)}</span></li>" if problem.remedy else "</li>"
    yield "</ul>"
    if (more := len(problems) - MAX_FINDINGS) > 0:
        yield f"<p>… and {more:,} more; --json lists all.</p>"


def _differences(found: Verification) -> Iterator[str]:
    """How far what differs from its source is from it."""
    apart = {
        name: origin.difference
        for name, origin in found.origins.items()
        if origin.difference and not origin.difference.exact
    }
    if apart:
        yield "<h2>How far it is from its source</h2>"
        cells = ((_name(name), *map(_text, rest)) for name, *rest in rows(apart))
        yield from _table(cells, HEADER, right=(1, 2, 3, 4), escaped=True)


def _colours(portrait: ValueReport) -> dict[str, str]:
    """Origin → its class, the same wherever it is shown."""
    names = dict.fromkeys(name for shares in portrait.origins.values() for name in shares)
    colours: dict[str, str] = {}
    for name in names:
        plain = sum(each.startswith("c") for each in colours.values())
        colour = f"c{min(plain, 3)}"
        colours[name] = "fresh" if is_fresh(name) else "wrong" if is_wrong(name) else colour
    return colours


def _dot(colour: str) -> str:
    return f'<span class="dot {colour}"></span>'


def _origins(portrait: ValueReport, colours: Mapping[str, str]) -> Iterator[str]:
    yield '<h2>What came from where</h2><p class="keys">'
    yield from (f"<span>{_dot(colour)}{_text(name)}</span>" for name, colour in colours.items())
    yield '</p><div class="shares">'
    for submodel, shares in portrait.origins.items():
        yield f'<span>{_text(submodel)}</span><span class="n">{sum(shares.values()):,}</span>'
        yield bar(shares, colours)
    yield "</div>"


def _panel(
    panel: ReportSection, portrait: ValueReport, colours: Mapping[str, str]
) -> Iterator[str]:
    first = panel.layers[0]
    yield f"<h2>{_text(panel.title)}</h2>"
    yield (
        '<p class="dim">How the values of the matrices are spread, layer by layer, all on one'
        f" scale from {first.low:.3g} to {first.high:.3g}; what lies beyond is counted at the"
        " ends. The dashed line is zero.</p>"
        '<div class="grid">'
    )
    for layer in panel.layers:
        stated = layer.statistics
        colour = _colour(layer, portrait, colours)
        label = f"values of {printable(layer.title)}"
        matrices = f"{len(layer.names):,} {'matrix' if len(layer.names) == 1 else 'matrices'}"
        yield (
            f"<figure>{histogram(layer.histogram, layer.low, layer.high, label, colour)}"
            f'<div class="ends"><span>{layer.low:.3g}</span><span>{layer.high:.3g}</span></div>'
            f"<figcaption><b>{_name(layer.title)}</b>"
            f'<span class="dim">{matrices}<br>{stated.mean:.2g} ± {stated.deviation:.3g}'
            f"<br>{stated.minimum:.3g} … {stated.maximum:.3g}</span>"
            "</figcaption></figure>"
        )
    yield "</div>"


def _colour(layer: Layer, portrait: ValueReport, colours: Mapping[str, str]) -> str:
    """That of its values' origin; of any that is wrong, before all."""
    mine = [colours[portrait.tensors[name][1]] for name in layer.names]
    return "wrong" if "wrong" in mine else mine[0]


def _tensors(portrait: ValueReport, colours: Mapping[str, str]) -> Iterator[str]:
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, (stored, origin, _) in portrait.tensors.items():
        head, _, tail = split_layer_index(name)
        spec = stored.tensor.spec
        groups.setdefault((head, tail, spec.shape, spec.dtype, origin), []).append(name)
    lines = []
    for names in groups.values():
        stored, origin, _ = portrait.tensors[names[0]]
        total = sum((portrait.tensors[name][2] for name in names), NOTHING)
        numbers = (total.minimum, total.maximum, total.mean, total.deviation)
        told = [f"{value:.4g}" for value in numbers] if total.count else [""] * 4
        name, spec = ", ".join(collapse_ranges(names)), stored.tensor.spec
        origin = f"{_dot(colours[origin])}{_name(origin)}"
        lines.append((_name(name), shape(spec.shape), spec.dtype, origin, *told))
    header = ("tensor", "shape", "dtype", "origin", "min", "max", "mean", "std")
    yield "<h2>Tensors</h2>"
    yield from _table(lines, header, right=(4, 5, 6, 7), whole=(1, 2), escaped=True)


def _table(
    lines: Iterable[Sequence[str]],
    header: Sequence[str] = (),
    *,
    right: Sequence[int] = (),
    whole: Sequence[int] = (),
    kind: str = "rows",
    escaped: bool = False,
) -> Iterator[str]:
    """A table.

    Args:
        lines: the cells.
        header: titles of the columns.
        right: numbers of the columns that hold numbers.
        whole: numbers of the columns that are not to be broken.
        kind: its class.
        escaped: whether the cells are HTML already.

    """
    style = dict.fromkeys(right, ' class="n"') | dict.fromkeys(whole, ' class="whole"')
    yield f'<table class="{kind}">'
    if header:
        cells = (f'<th scope="col"{style.get(n, "")}>{cell}</th>' for n, cell in enumerate(header))
        yield f"<thead><tr>{''.join(cells)}</tr></thead>"
    yield "<tbody>"
    for cells_of_line in lines:
        parts = []
        for number, cell in enumerate(cells_of_line):
            told = f' data-of="{header[number]}"' if number and header else ""
            parts.append(
                f"<td{style.get(number, '')}{told}>{cell if escaped else _text(cell)}</td>"
            )
        yield f"<tr>{''.join(parts)}</tr>"
    yield "</tbody></table>"

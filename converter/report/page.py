"""A verification as one self-contained page of HTML, for people to look at."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from converter._version import __version__
from converter.folding import fold, numbered
from converter.proof.portrait import is_fresh
from converter.report.plots import bar, histogram
from converter.report.text import count, printable, shape
from converter.report.verification import folded

if TYPE_CHECKING:
    from converter.proof.portrait import Panel, Portrait
    from converter.proof.verification import Verification

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #5b6570; --paper: #fff; --line: #d8dde3;
  --good: #1a7f37; --bad: #c5221f; --fill: #3b74c4; --c0: #3b74c4; --c1: #2a9d8f; --c2: #8a63c9;
  --c3: #6b7785; --fresh: #e08a1e; --wrong: #c5221f }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --dim: #9aa4af; --paper: #14171a;
  --line: #333a42; --good: #4cc26d; --bad: #ff7b72; --fill: #6aa1ee; --c0: #6aa1ee; --c1: #4fc4b5;
  --c2: #b393ec; --c3: #8d98a5; --fresh: #f0a94b; --wrong: #ff7b72 } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1080px; margin: 0 auto; padding: 24px 20px 60px }
h1 { font-size: 24px; margin: 0 0 4px; overflow-wrap: anywhere }
h2 { font-size: 18px; margin: 34px 0 8px; border-bottom: 1px solid var(--line);
  padding-bottom: 4px }
p, li, figcaption { overflow-wrap: anywhere } .dim { color: var(--dim) }
.badge { display: inline-block; color: #fff; border-radius: 4px; padding: 2px 10px;
  font-weight: 600 } .good { background: var(--good) } .bad { background: var(--bad) }
table { border-collapse: collapse; font-size: 13px; width: 100% }
th, td { text-align: left; padding: 3px 12px 3px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere } th { color: var(--dim); font-weight: 500 }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.wide { overflow-x: auto }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 14px }
figure { margin: 0; min-width: 0 } figcaption { font-size: 12px; line-height: 1.35 }
svg { display: block; max-width: 100% } svg polygon { fill: var(--fill) }
.anew svg polygon { fill: var(--fresh) } .zero { stroke: var(--line); stroke-width: 1 }
.shares { width: 75% } svg.bar { width: 100%; height: 18px; border-radius: 3px }
.c0 { fill: var(--c0) } .c1 { fill: var(--c1) } .c2 { fill: var(--c2) } .c3 { fill: var(--c3) }
.fresh { fill: var(--fresh) } .wrong { fill: var(--wrong) }
.key { display: inline-block; margin-right: 18px; font-size: 13px }
.key svg { display: inline-block; width: 11px; height: 11px; margin-right: 6px }
"""


def page(found: Verification, portrait: Portrait | None) -> str:
    """The text of the page.

    Args:
        found: what was proven.
        portrait: what the checkpoint looks like, if it could be read.
    """
    title = escape(printable(found.directory))
    body = "\n".join(_body(found, portrait))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Whatever a hostile name might smuggle in: nothing may be loaded or run.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
        " style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return escape(printable(text))


def _body(found: Verification, portrait: Portrait | None) -> Iterator[str]:
    number = len(found.problems)
    badge = "verified" if found.verified else f"not verified: {count(number, 'problem')}"
    yield f"<h1>{_text(found.directory)}</h1>"
    yield f'<p><span class="badge {"good" if found.verified else "bad"}">{badge}</span>'
    if portrait:
        yield f" {_text(portrait.model)}, {portrait.parameters:,} parameters in"
        yield f" {_text(', '.join(found.formats))}"
    yield "</p>"
    if found.problems:
        yield "<h2>What is wrong</h2><ul>"
        yield from (f"<li>{_text(text)}</li>" for text in folded(found.problems))
        yield "</ul>"
    if found.notes:
        yield "<h2>Warnings and notes</h2><ul>"
        yield from (f"<li>{_text(text)}</li>" for text in found.notes)
        yield "</ul>"
    yield "<h2>What was proven</h2><table>"
    yield from (
        f"<tr><td>{_text(what)}</td><td>{_text(much)}</td></tr>"
        for what, much in found.checks.items()
    )
    yield "</table>"
    if portrait:
        yield from _origins(portrait)
        for panel in portrait.panels:
            yield from _panel(panel)
        yield from _tensors(portrait)
    yield f'<p class="dim">Made by converter {__version__}.</p>'


def _origins(portrait: Portrait) -> Iterator[str]:
    names = dict.fromkeys(name for shares in portrait.origins.values() for name in shares)
    classes: dict[str, str] = {}
    for name in names:
        plain = sum(each.startswith("c") for each in classes.values())
        colour = f"c{min(plain, 3)}"
        classes[name] = "fresh" if is_fresh(name) else "wrong" if name[:3] == "not" else colour
    yield "<h2>What came from where</h2><p>"
    for name in names:
        yield (
            f'<span class="key"><svg viewBox="0 0 1 1"><rect class="{classes[name]}" width="1"'
            f' height="1"/></svg>{_text(name)}</span>'
        )
    yield "</p><table>"
    for half, shares in portrait.origins.items():
        yield f"<tr><td>{_text(half)}</td>"
        yield f'<td class="shares">{bar(shares, classes)}</td>'
        yield f'<td class="n">{sum(shares.values()):,}</td></tr>'
    yield "</table>"


def _panel(panel: Panel) -> Iterator[str]:
    first = panel.layers[0]
    anew = " anew" if is_fresh(panel.title.lower()) else ""
    yield f"<h2>{_text(panel.title)}</h2>"
    yield (
        f'<p class="dim">Values of the matrices, layer by layer, all from {first.low:.3g} to'
        f" {first.high:.3g}; what lies beyond is counted at the ends. The line is zero.</p>"
        f'<div class="grid{anew}">'
    )
    for layer in panel.layers:
        stated = layer.statistics
        plot = histogram(layer.histogram, layer.low, layer.high, f"values of {layer.title}")
        yield (
            f"<figure>{plot}<figcaption><b>{_text(layer.title)}</b>"
            f' <span class="dim">{count(len(layer.names), "matrix").replace("matrixs", "matrices")}'
            f"<br>{stated.mean:.2g} ± {stated.deviation:.3g}"
            f"<br>{stated.minimum:.3g} … {stated.maximum:.3g}</span></figcaption></figure>"
        )
    yield "</div>"


def _tensors(portrait: Portrait) -> Iterator[str]:
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, (stored, origin, _) in portrait.tensors.items():
        head, _, tail = numbered(name)
        spec = stored.tensor.spec
        groups.setdefault((head, tail, spec.shape, spec.dtype, origin), []).append(name)
    yield '<h2>Tensors</h2><div class="wide"><table><tr><th>tensor</th><th>shape</th>'
    yield "<th>dtype</th><th>origin</th>"
    yield "".join(f'<th class="n">{title}</th>' for title in ("min", "max", "mean", "std"))
    yield "</tr>"
    for names in groups.values():
        stored, origin, total = portrait.tensors[names[0]]
        for name in names[1:]:
            total += portrait.tensors[name][2]
        spec = stored.tensor.spec
        cells = [", ".join(fold(names)), shape(spec.shape), spec.dtype, origin]
        numbers = (total.minimum, total.maximum, total.mean, total.deviation)
        yield "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        yield "".join(f'<td class="n">{value:.4g}</td>' for value in numbers) + "</tr>"
    yield "</table></div>"

"""Small plots as SVG that stands in a page: no script, no style of its own, no resource."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape


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
    for number, count in enumerate(counts):
        y = floor - (floor - 2) * count / top
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

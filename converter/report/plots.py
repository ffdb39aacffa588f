"""Small plots as SVG that stands in a page: no script, no style of its own, no resource."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape


def histogram(
    counts: Sequence[int],
    low: float,
    high: float,
    label: str,
    *,
    width: int = 180,
    height: int = 54,
) -> str:
    """A filled outline of `counts`, as high as the fullest bin, with a mark at zero.

    Args:
        counts: one per bin.
        low: left end of the first bin.
        high: right end of the last.
        label: what a screen reader says.
        width: in pixels.
        height: in pixels.
    """
    top = max(counts, default=0) or 1
    step = width / max(1, len(counts))
    points = [f"0,{height}"]
    for number, count in enumerate(counts):
        y = height - (height - 2) * count / top
        points += [f"{number * step:.1f},{y:.1f}", f"{(number + 1) * step:.1f},{y:.1f}"]
    points.append(f"{width},{height}")
    zero = ""
    if low < 0 < high:
        x = width * -low / (high - low)
        zero = f'<line class="zero" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>'
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
        f' aria-label="{escape(label)}"><polygon points="{" ".join(points)}"/>{zero}</svg>'
    )


def bar(shares: Mapping[str, int], classes: Mapping[str, str], *, width: int = 640) -> str:
    """One horizontal bar, its parts as wide as their shares.

    Args:
        shares: part → amount.
        classes: part → the CSS class that colours it.
        width: in pixels.
    """
    total = sum(shares.values()) or 1
    parts, x = [], 0.0
    for name, amount in shares.items():
        length = width * amount / total
        parts.append(
            f'<rect class="{escape(classes[name])}" x="{x:.1f}" y="0" width="{length:.1f}"'
            f' height="18"><title>{escape(name)}: {amount:,} values ({amount / total:.1%})'
            "</title></rect>"
        )
        x += length
    return (
        f'<svg class="bar" viewBox="0 0 {width} 18" preserveAspectRatio="none" role="img"'
        f' aria-label="shares by origin">{"".join(parts)}</svg>'
    )

"""Small line plots as inline SVG: curves in the unit square, in the page's own colours, made from numbers only.

    plot([Series("ours", [(0.0, 0.0), (0.1, 0.8), (1.0, 1.0)])], "false alarms", "fakes found", diagonal=True)

Names are escaped; nothing else of a stranger gets in. The look (classes ``s0`` to ``s7``) is the page's style sheet.
Not here: robustness (``curves``), what is plotted (``evaluation``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 300, 46, 12, 12, 44
COLOURS = 8
_WIDE, _TALL = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM


@dataclass(frozen=True)
class Series:
    """``points`` (x, y) in [0, 1], in order; ``dots`` marks them."""

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


def plot(series: Sequence[Series], x_label: str, y_label: str, *, diagonal: bool = False) -> Markup:
    """The SVG. ``diagonal`` draws the line of chance. Points that are no numbers are left out."""
    parts = [f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)}">']
    for i in range(6):
        x, y = _at(i / 5, i / 5)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y}" x2="{LEFT + _WIDE}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{i / 5:.1f}</text>')
        parts.append(f'<text x="{x}" y="{TOP + _TALL + 15}" text-anchor="middle">{i / 5:.1f}</text>')
    if diagonal:
        parts.append(f'<line class="chance" x1="{LEFT}" y1="{TOP + _TALL}" x2="{LEFT + _WIDE}" y2="{TOP}"/>')
    for number, one in enumerate(series):
        parts += _drawn(one, f"s{number % COLOURS}")
    parts.append(f'<text x="{LEFT + _WIDE / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text class="y" x="{-(TOP + _TALL / 2)}" y="12" text-anchor="middle">{escape(y_label)}</text></svg>')
    return Markup("".join(parts))


def _drawn(one: Series, colour: str) -> list[str]:
    places = [_at(x, y) for x, y in one.points if math.isfinite(x) and math.isfinite(y)]
    line = " ".join(f"{x},{y}" for x, y in places)
    parts = [f'<polyline class="line {colour}" points="{line}"><title>{escape(one.name)}</title></polyline>']
    if one.dots:
        parts += [f'<circle class="dot {colour}" cx="{x}" cy="{y}" r="3"/>' for x, y in places]
    return parts


def _at(x: float, y: float) -> tuple[float, float]:
    x, y = min(1.0, max(0.0, x)), min(1.0, max(0.0, y))
    return round(LEFT + x * _WIDE, 2), round(TOP + (1 - y) * _TALL, 2)

"""Small line plots as inline SVG: curves with a legend, in the page's own colours, made from numbers only.

    plot([Series("ours", [(0.0, 0.0), (0.1, 0.8), (1.0, 1.0)])], "false alarms", "fakes found", diagonal=True)

Names are escaped; nothing else of a stranger gets in. The look (classes ``s0`` to ``s7``) is the page's style sheet.
Not here: what is plotted (``evaluation``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 300, 46, 12, 12, 44
COLOURS = 8


@dataclass(frozen=True)
class Series:
    """``points`` (x, y) in order; ``band`` (low, high) of each where there is an interval; ``dots`` marks points."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float | None, float | None]] = ()
    dots: bool = False


def plot(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    diagonal: bool = False,
    ticks: Sequence[tuple[float, str]] = (),
    y_range: tuple[float, float] = (0.0, 1.0),
) -> Markup:
    """An SVG of x in [0, 1] and y in ``y_range``; ``ticks`` (x, text) name places of the x axis, else its fifths do.

    ``diagonal`` draws the line of chance. Points that are no numbers are left out.
    """
    low, high = y_range
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        x, y = min(1.0, max(0.0, x)), min(high, max(low, y))
        return round(LEFT + x * wide, 2), round(TOP + (high - y) / (high - low) * tall, 2)

    parts = [f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)}">']
    for i in range(6):
        y = low + (high - low) * i / 5
        (x0, y0), (x1, _) = at(0, y), at(1, y)
        parts.append(f'<line class="grid" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y0}"/>')
        parts.append(f'<text x="{x0 - 6}" y="{y0 + 4}" text-anchor="end">{y:.1f}</text>')
    for x, text in ticks or [(i / 5, f"{i / 5:.1f}") for i in range(6)]:
        x0, y0 = at(x, low)
        parts.append(f'<text x="{x0}" y="{y0 + 15}" text-anchor="middle">{escape(text)}</text>')
    if diagonal:
        (x0, y0), (x1, y1) = at(0, low), at(1, high)
        parts.append(f'<line class="chance" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}"/>')
    for number, one in enumerate(series):
        parts += _drawn(one, f"s{number % COLOURS}", at)
    parts.append(f'<text x="{LEFT + wide / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text class="y" x="{-(TOP + tall / 2)}" y="12" text-anchor="middle">{escape(y_label)}</text></svg>')
    return Markup("".join(parts))


def _drawn(one: Series, colour: str, at) -> list[str]:  # noqa: ANN001 - the function above
    fine = [i for i, point in enumerate(one.points) if all(math.isfinite(v) for v in point)]
    places = [at(*one.points[i]) for i in fine]
    parts = []
    if one.band:
        known = [i for i in fine if None not in one.band[i]]
        edge = [at(one.points[i][0], one.band[i][1]) for i in known]
        edge += [at(one.points[i][0], one.band[i][0]) for i in reversed(known)]
        parts.append(f'<polygon class="band {colour}" points="{_points(edge)}"/>')
    parts.append(
        f'<polyline class="line {colour}" points="{_points(places)}"><title>{escape(one.name)}</title></polyline>'
    )
    if one.dots:
        parts += [f'<circle class="dot {colour}" cx="{x}" cy="{y}" r="3"/>' for x, y in places]
    return parts


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in places)

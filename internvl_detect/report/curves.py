"""Robustness curves and faithfulness as blocks for a page: plain SVG and HTML text that load nothing and run nothing.

    svg = curves_svg({"nano": severity_curves(...), "tagger": ...})    # or the points of one system alone
    html = faithfulness_html({"nano": faithfulness(...).to_dict()})

Points are those of ``evaluate.robustness``, as objects or as rows read from JSON. Names are strangers' text and are
escaped. Not here: measuring.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from internvl_detect.report.words import visible

MOST_SYSTEMS = 8
COLOURS = ("#1d5f8a", "#b42318", "#8a5a00", "#2e7d4f", "#6b46a3", "#0f7d86", "#a1397a", "#59616b")
COLUMNS, PANEL_W, PANEL_H = 3, 250, 150
_LEFT, _TOP, _GAP, _PLOT_W, _PLOT_H = 38, 24, 14, 196, 92
_UNTOUCHED = "none"
_MEASURES = (
    ("cover", "of the mask lies in the part that the words name", "n_cover"),
    ("hiding", "more does the score fall when the masked region is hidden than when as much elsewhere is", "n_hiding"),
    ("agreement", "of the answers have verdict, mask and words that say the same", "n"),
)  # fmt: skip

Points = Sequence[Any]


def curves_svg(curves: Mapping[str, Points] | Points) -> str:
    """One panel an operation: AUC over its severities, with the interval as a band, one colour a system.

    The dotted line is chance, the dashed one of a system's colour its AUC on the files as they are. At most
    ``MOST_SYSTEMS`` systems are drawn; the legend counts the others. A point without an AUC leaves a gap. An empty
    text where there is nothing to draw.
    """
    given = curves if isinstance(curves, Mapping) else {"": curves}
    systems = {name: list(points) for name, points in list(given.items())[:MOST_SYSTEMS]}
    every = [p for points in systems.values() for p in points if _of(p, "operation") != _UNTOUCHED]
    operations = list(dict.fromkeys(str(_of(p, "operation")) for p in every))
    if not operations:
        return ""
    names = [name for name in systems if name]
    legend_h = 18 * len(names) + (18 if len(given) > len(systems) else 0)
    rows = -(-len(operations) // COLUMNS)
    width, height = COLUMNS * PANEL_W, legend_h + rows * PANEL_H + _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="AUC by severity of each degradation" font-family="system-ui, sans-serif" font-size="10" '
        f'fill="currentColor" style="width:100%;max-width:{width}px;height:auto">'
    ]
    for i, name in enumerate(names):
        parts.append(f'<rect x="{_LEFT}" y="{6 + 18 * i}" width="14" height="4" fill="{COLOURS[i]}"/>')
        parts.append(f'<text x="{_LEFT + 20}" y="{12 + 18 * i}">{_text(name, 80)}</text>')
    if len(given) > len(systems):
        said = f"and {len(given) - len(systems)} more systems, not drawn"
        parts.append(f'<text x="{_LEFT}" y="{12 + 18 * len(names)}">{said}</text>')
    for at, operation in enumerate(operations):
        x, y = at % COLUMNS * PANEL_W, legend_h + at // COLUMNS * PANEL_H
        parts.append(f'<g transform="translate({x} {y})">{_panel(operation, systems)}</g>')
    return "".join(parts) + "</svg>"


def _panel(operation: str, systems: Mapping[str, Points]) -> str:
    ticks = list(
        dict.fromkeys(
            str(_of(p, "severity")) for ps in systems.values() for p in ps if str(_of(p, "operation")) == operation
        )
    )
    step = _PLOT_W / max(1, len(ticks) - 1)
    across = {tick: _LEFT + (i * step if len(ticks) > 1 else _PLOT_W / 2) for i, tick in enumerate(ticks)}
    parts = [f'<text x="{_LEFT}" y="{_TOP - 8}" font-size="12" font-weight="600">{_text(operation, 30)}</text>']
    for value in (0, 0.5, 1):
        dots = ' stroke-dasharray="1 3"' if value == 0.5 else ' stroke-opacity=".25"'
        line = f'<path d="M{_LEFT} {_y(value)}h{_PLOT_W}" stroke="currentColor"{dots}/>'
        parts.append(f'{line}<text x="{_LEFT - 5}" y="{_y(value) + 3}" text-anchor="end">{value:g}</text>')
    for tick, x in across.items():
        short = tick if len(tick) <= 6 else tick[:5] + "…"
        label = f'<text x="{x:.1f}" y="{_TOP + _PLOT_H + 13}" text-anchor="middle">{_text(short, 8)}'
        parts.append(f"{label}<title>{_text(tick, 40)}</title></text>")
    for i, (name, points) in enumerate(systems.items()):
        colour = COLOURS[i]
        before = next((_number(p, "auc") for p in points if _of(p, "operation") == _UNTOUCHED), math.nan)
        if before == before:
            path = f'<path d="M{_LEFT} {_y(before)}h{_PLOT_W}" stroke="{colour}" stroke-dasharray="5 4" opacity=".6"/>'
            parts.append(path)
        mine = [p for p in points if str(_of(p, "operation")) == operation]
        parts += _line(name, [(across[str(_of(p, "severity"))], p) for p in mine], colour)
    return "".join(parts)


def _line(name: str, points: Sequence[tuple[float, Any]], colour: str) -> list[str]:
    parts: list[str] = []
    for run in _runs(points):
        low = [(x, _number(p, "low")) for x, p in run]
        high = [(x, _number(p, "high")) for x, p in run]
        if all(v == v for _, v in low + high):
            band = " ".join(f"{x:.1f},{_y(v)}" for x, v in high + low[::-1])
            parts.append(f'<polygon points="{band}" fill="{colour}" opacity=".15"/>')
        line = " ".join(f"{x:.1f},{_y(_number(p, 'auc'))}" for x, p in run)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, p in run:
            said = f"{name + ': ' if name else ''}{_of(p, 'operation')} {_of(p, 'severity')}, AUC {_interval(p, 'auc')}"
            dot = f'<circle cx="{x:.1f}" cy="{_y(_number(p, "auc"))}" r="3" fill="{colour}">'
            parts.append(f"{dot}<title>{_text(said, 200)}</title></circle>")
    return parts


def _runs(points: Sequence[tuple[float, Any]]) -> list[list[tuple[float, Any]]]:
    """The points in runs without a gap."""
    runs: list[list[tuple[float, Any]]] = [[]]
    for x, p in points:
        if math.isnan(_number(p, "auc")):
            runs.append([])
        else:
            runs[-1].append((x, p))
    return [run for run in runs if run]


def faithfulness_html(reports: Mapping[str, Any]) -> str:
    """A table: a row a system, a column a measurement with its interval and count. ``reports``: Faithfulness or its
    dict, by system. An empty text without reports."""
    if not reports:
        return ""
    head = "".join(f'<th scope="col" title="{escape(f"how much {said}")}">{name}</th>' for name, said, _ in _MEASURES)
    rows = []
    for name, report in reports.items():
        cells = []
        for measure, _, count in _MEASURES:
            mean = measure if measure == "agreement" else f"{measure}_mean"
            cells.append(f"<td>{_interval(report, mean, measure)} <small>n = {_of(report, count) or 0}</small></td>")
        rows.append(f'<tr><th scope="row">{_text(name, 80)}</th>{"".join(cells)}</tr>')
    notes = "; ".join(f"{name}: how much {said}" for name, said, _ in _MEASURES)
    table = f'<table><thead><tr><th scope="col">system</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f"{table}<p>{escape(notes[0].upper() + notes[1:])}.</p>"


def _interval(row: Any, mean: str, of: str = "") -> str:
    value, prefix = _number(row, mean), f"{of}_" if of else ""
    low, high = _number(row, f"{prefix}low"), _number(row, f"{prefix}high")
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" + ("" if math.isnan(low) or math.isnan(high) else f" ({low:.3f} to {high:.3f})")


def _y(value: float) -> float:
    return round(_TOP + (1 - min(1.0, max(0.0, value))) * _PLOT_H, 1)


def _text(text: object, limit: int) -> str:
    return escape(visible(text, limit))


def _number(row: Any, name: str) -> float:
    value = _of(row, name)
    return float(value) if isinstance(value, int | float) else math.nan


def _of(row: Any, name: str) -> Any:
    return row.get(name) if isinstance(row, Mapping) else getattr(row, name, None)

"""Two charts as inline SVG: bars with intervals, and a cumulative distribution. Pure text, nothing to install."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from llm_server.evaluation.harness.tables import Cell

COLOURS: Final = ("#2563eb", "#94a3b8", "#16a34a", "#d97706", "#9333ea", "#dc2626")
_BAR, _GAP, _LEFT, _WIDTH = 16, 14, 190, 760


def bars(table: Mapping[str, Mapping[str, Cell]]) -> str:
    """Horizontal bars, one a cell, whiskers for the interval; scores 0..1."""
    columns = list(dict.fromkeys(column for cells in table.values() for column in cells))
    colour = {column: COLOURS[i % len(COLOURS)] for i, column in enumerate(columns)}
    span = _WIDTH - _LEFT - 150
    parts: list[str] = []
    y = 30
    for i, column in enumerate(columns):
        x = _LEFT + 150 * i
        parts.append(f'<rect x="{x}" y="4" width="12" height="12" fill="{colour[column]}"/>')
        parts.append(f'<text x="{x + 18}" y="15">{escape(column)}</text>')
    for row, cells in table.items():
        middle = y + len(cells) * _BAR / 2 + 4
        parts.append(f'<text x="{_LEFT - 8}" y="{middle:.0f}" text-anchor="end">{escape(row)}</text>')
        for column, cell in cells.items():
            low, high, centre = _LEFT + span * cell.low, _LEFT + span * cell.high, y + _BAR / 2
            parts.append(
                f'<rect x="{_LEFT}" y="{y + 1}" width="{max(span * cell.mean, 0.5):.1f}" height="{_BAR - 2}" '
                f'fill="{colour[column]}"><title>{escape(f"{row}, {column}: {cell}, n = {cell.count}")}</title></rect>'
                f'<path d="M{low:.1f} {centre}H{high:.1f}M{low:.1f} {centre - 4}v8M{high:.1f} {centre - 4}v8" '
                'stroke="#111827" fill="none"/>'
                f'<text x="{_LEFT + span + 10}" y="{y + 12}">{escape(str(cell))}</text>'
            )
            y += _BAR
        y += _GAP
    return _svg(y, parts)


def cumulative(series: Mapping[str, Sequence[float]], unit: str) -> str:
    """For each series the share of values up to x; values at least 0."""
    shown = {name: sorted(values) for name, values in series.items() if values}
    most = max((values[-1] for values in shown.values()), default=0.0) or 1.0
    height, span = 190, _WIDTH - _LEFT - 150
    parts: list[str] = []
    for quarter in range(5):
        x, value = _LEFT + span * quarter / 4, most * quarter / 4
        parts.append(f'<path d="M{x:.0f} 10V{height - 30}" stroke="#e5e7eb"/>')
        parts.append(
            f'<text x="{x:.0f}" y="{height - 12}" text-anchor="middle">{value:,.0f} {escape(unit)}</text>'
        )
    for i, (name, values) in enumerate(shown.items()):
        steps = [
            f"{_LEFT + span * value / most:.1f} {height - 30 - (height - 40) * (k + 1) / len(values):.1f}"
            for k, value in enumerate(values)
        ]
        line = f"M{_LEFT} {height - 30}L" + "L".join(steps)
        colour = COLOURS[i % len(COLOURS)]
        parts.append(f'<path d="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{_LEFT + span + 10}" y="{24 + 18 * i}" fill="{colour}">{escape(name)}</text>')
    return _svg(height, parts)


def _svg(height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" role="img">'
    return f"{head}{''.join(parts)}</svg>"

"""One HTML file that needs nothing beside it: figures, charts, and the worst cases with their pictures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from PIL import Image

from llm_server.evaluation.harness.example import Record
from llm_server.evaluation.harness.svg_charts import bars, cumulative
from llm_server.evaluation.harness.tables import Cell
from serving.errors import PolysightError
from serving.image import decode_image

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#111827}
table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #d1d5db;padding:.25rem .6rem;text-align:left}
svg text{font:13px system-ui,sans-serif}figure{display:grid;grid-template-columns:22rem 1fr;gap:1rem;margin:1.5rem 0}
figure svg{max-width:22rem;height:auto}pre{white-space:pre-wrap;background:#f3f4f6;padding:.6rem}dt{font-weight:600}
dd{margin:0 0 .4rem 0}
"""
_THUMBNAIL = 480

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Case:
    """A case to look at: the record, the picture's bytes (None if it cannot be read), and boxes drawn on it.

    `boxes` are (normalised xyxy, colour, caption); `remarks` are further lines, such as what a perfect reader says.
    """

    record: Record
    image: bytes | None
    boxes: Sequence[tuple[Box, str, str]] = ()
    remarks: Mapping[str, str] = field(default_factory=dict)


def html_report(
    title: str,
    report: Mapping[str, Any],
    table: Mapping[str, Mapping[str, Cell]],
    timings: Mapping[str, Sequence[float]],
    cases: Sequence[Case],
) -> str:
    """The page.

    Args:
        title: its heading.
        report: what the command prints as JSON; shown as it is.
        table: scores by row and column.
        timings: milliseconds an answer took, by series.
        cases: the worst ones.
    """
    columns = list(dict.fromkeys(column for cells in table.values() for column in cells))
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    rows = "".join(
        f"<tr><th>{escape(row)}</th>{''.join(_cell(cells.get(column)) for column in columns)}</tr>"
        for row, cells in table.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>"
        "<p>Per cent, with 95 % intervals of a bootstrap over pictures; behind in brackets, how many questions.</p>"
        f"<table><tr><th></th>{head}</tr>{rows}</table>{bars(table)}"
        f"<h2>Time of an answer</h2>{cumulative(timings, 'ms')}"
        f"<h2>Worst cases</h2>{''.join(_case(case) for case in cases) or '<p>None.</p>'}"
        f"<h2>Figures</h2><pre>{escape(json.dumps(report, indent=2, ensure_ascii=False))}</pre></html>"
    )


def _cell(cell: Cell | None) -> str:
    return "<td></td>" if cell is None else f"<td>{escape(str(cell))} ({cell.count})</td>"


def _case(case: Case) -> str:
    record = case.record
    told = {
        "question": record.question,
        "expected": record.expected,
        "answer": record.answer,
        "understood as": record.read,
        "score": f"{record.score:.2f}",
        **case.remarks,
        "words": record.verbalization,
        "picture": record.picture,
    }
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in told.items())
    name = escape(f"{record.group}, {record.condition}")
    return f"<h3>{name}</h3><figure>{_picture(case)}<dl>{lines}</dl></figure>"


def _picture(case: Case) -> str:
    """The picture, small, with its boxes over it."""
    if case.image is None:
        return "<div>(the picture cannot be read)</div>"
    try:
        small = Image.fromarray(decode_image(case.image))
    except PolysightError:
        return "<div>(the picture cannot be read)</div>"
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    width, height = small.size
    parts = []
    for (x0, y0, x1, y1), colour, caption in case.boxes:
        x, y = x0 * width, y0 * height
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max((x1 - x0) * width, 0):.1f}" '
            f'height="{max((y1 - y0) * height, 0):.1f}" fill="none" stroke="{escape(colour)}" stroke-width="2"/>'
            f'<text x="{x + 3:.1f}" y="{y + 14:.1f}" fill="{escape(colour)}">{escape(caption)}</text>'
        )
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}"><image href="data:image/jpeg;base64,{data}" '
        f'width="{width}" height="{height}"/>{"".join(parts)}</svg>'
    )

"""The report is one file, escapes what models and signs say, and shows pictures and boxes."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

from PIL import Image

from llm_server.evaluation.harness.example import Record
from llm_server.evaluation.harness.html_report import Case, html_report
from llm_server.evaluation.harness.svg_charts import bars, cumulative
from llm_server.evaluation.harness.tables import Cell, Scored, table

TABLE = {"count": {"adapters": Cell(0.5, 0.25, 0.75, 8), "base": Cell(0.0, 0.0, 0.0, 8)}}


def case(image: bytes | None) -> Case:
    record = Record(
        "count/1/dog", "count", "adapters", "f", "How many dogs?", "1.jpg", "2.", "<b>words</b>", "<script>3</script>",
        [], {}, {}, {"total": 4.0}, 1, 0.0, "3",
    )  # fmt: skip
    return Case(
        record, image, [((0.1, 0.2, 0.5, 0.6), "#dc2626", "dog & cat")], {"a perfect reader says": "2."}
    )


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (2000, 1000), (10, 20, 30, 255)).save(file, "PNG")
    return file.getvalue()


def test_the_page_needs_nothing_beside_it_and_runs_nothing() -> None:
    page = html_report("A <title>", {"count": 0.5}, TABLE, {"adapters": [3.0, 9.0]}, [case(png())])
    assert "<script" not in page
    assert "&lt;script&gt;3&lt;/script&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert 'href="data:image/jpeg;base64,' in page
    assert "50.0 [25.0, 75.0]" in page
    assert "dog &amp; cat" in page
    assert len(page) < 60_000


def test_a_picture_that_cannot_be_read_is_said_to_be_none() -> None:
    for image in (None, b"no picture"):
        assert "cannot be read" in html_report("t", {}, TABLE, {}, [case(image)])


def test_charts_are_well_formed_and_bars_are_as_long_as_the_scores() -> None:
    drawn = ElementTree.fromstring(bars(TABLE))
    widths = [float(one.get("width", 0)) for one in drawn.iter() if one.find("{*}title") is not None]
    assert widths == [210.0, 0.5]
    ElementTree.fromstring(cumulative({"a & b": [1.0, 2.0], "none": []}, "ms"))
    ElementTree.fromstring(cumulative({}, "ms"))


def test_scores_are_tabled_by_row_and_column() -> None:
    cells = table([Scored("a", "x", "1", 1.0), Scored("a", "x", "2", 0.0), Scored("b", "y", "1", 1.0)])
    assert {row: list(columns) for row, columns in cells.items()} == {"a": ["x"], "b": ["y"]}
    assert (cells["a"]["x"].mean, cells["a"]["x"].count, cells["b"]["y"].mean) == (0.5, 2, 1.0)

"""What the OCR bench measures with: the edit distance, and pictures that are the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.ocr import edit_distance
from bench.text_pages import text_pages
from bench.timed_engine import TimedEngine
from serving.engine import FakeEngine, TensorSpec
from serving.image import decode_image

WORDS = st.text(alphabet="abc", max_size=8)


@pytest.mark.parametrize(
    ("first", "second", "edits"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("a\nb", "a b", 1)],
)
def test_edit_distance(first: str, second: str, edits: int) -> None:
    assert edit_distance(first, second) == edits


@settings(deadline=None, max_examples=50)
@given(WORDS, WORDS, WORDS)
def test_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, b) == edit_distance(b, a)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


def test_pages_are_drawn_the_same_every_time_and_decode() -> None:
    once, again = text_pages(), text_pages()

    assert once == again
    assert len(once) >= 5
    for data in once.values():
        assert decode_image(data).std() > 5


def test_a_timed_engine_is_the_engine_it_times() -> None:
    spec = TensorSpec("x", ("n", 2), "float32")
    inner = FakeEngine([spec], [spec], lambda inputs: {"x": inputs["x"] * 2}, max_batch=3)
    timed = TimedEngine(inner)

    output = timed.run({"x": np.ones((2, 2), dtype=np.float32)})["x"]

    assert output.tolist() == [[2, 2], [2, 2]]
    assert (timed.name, timed.inputs, timed.outputs, timed.max_batch) == ("fake", (spec,), (spec,), 3)
    assert timed.seconds > 0

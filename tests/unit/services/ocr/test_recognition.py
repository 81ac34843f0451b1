"""Width buckets and batches: every crop once, none wider than its bucket, neighbours without influence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ocr.orientation import AngleClassifier
from services.ocr.recognition import Recognizer, WidthBuckets, plan_batches
from serving.engine import FakeEngine, TensorSpec

CHARSET = ("", *(chr(ord("a") + i) for i in range(26)), " ")
BUCKETS = WidthBuckets()
Arrays = Mapping[str, np.ndarray[Any, Any]]


def letters(max_batch: int = 4) -> FakeEngine:
    """Every 8 columns a step; the class is the brightness of those columns, the probability falls with padding."""

    def compute(inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        x = inputs["x"]
        steps = x.shape[3] // 8
        level = (x[:, 0, :, : steps * 8].mean(axis=1).reshape(len(x), steps, 8).mean(axis=2) + 1) / 2
        classes = np.rint(level * 25).astype(int) + 1
        padded = np.abs(x[:, 0, :, : steps * 8]).max(axis=1).reshape(len(x), steps, 8).max(axis=2) == 0
        classes[padded] = 0
        y = np.full((len(x), steps, len(CHARSET)), 0.001, dtype=np.float32)
        np.put_along_axis(y, classes[..., None], 0.9, axis=2)
        return {"y": y}

    return FakeEngine(
        [TensorSpec("x", ("n", 3, 48, "w"), "float32")],
        [TensorSpec("y", ("n", "t", len(CHARSET)), "float32")],
        compute,
        max_batch=max_batch,
    )


def crop(level: int, width: int, height: int = 48) -> np.ndarray[Any, Any]:
    return np.full((height, width, 3), level, dtype=np.uint8)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 3000), st.integers(1, 9000))
def test_a_crop_fits_its_bucket_and_wastes_less_than_a_step(height: int, width: int) -> None:
    columns = BUCKETS.columns(height, width)
    bucket = BUCKETS.bucket(columns)

    assert 1 <= columns <= bucket <= BUCKETS.largest
    assert bucket == BUCKETS.smallest or bucket - columns < BUCKETS.step


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 3200), max_size=40), st.integers(1, 9))
def test_every_crop_is_in_exactly_one_batch(columns: list[int], max_batch: int) -> None:
    batches = list(plan_batches(columns, BUCKETS, max_batch=max_batch))

    assert sorted(index for batch in batches for index in batch.indices) == list(range(len(columns)))
    for batch in batches:
        assert 1 <= len(batch.indices) <= max_batch
        assert len(batch.indices) == 1 or len(batch.indices) * batch.width <= BUCKETS.per_run
        assert {BUCKETS.bucket(columns[index]) for index in batch.indices} == {batch.width}


def test_full_batches_are_used() -> None:
    engine = letters(max_batch=4)

    Recognizer(engine, CHARSET, BUCKETS).read([crop(0, 100)] * 9)

    assert engine.batches == [4, 4, 1]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(20, 900), st.integers(8, 96)), max_size=12))
def test_together_reads_as_one_by_one(shapes: list[tuple[int, int, int]]) -> None:
    crops = [crop(level, width, height) for level, width, height in shapes]
    recognizer = Recognizer(letters(), CHARSET, BUCKETS)

    together = recognizer.read(crops)

    assert together == [recognizer.read([one])[0] for one in crops]


def test_readings_come_back_in_the_order_of_the_crops() -> None:
    levels = [250, 10, 130, 70, 190]
    widths = [900, 40, 500, 900, 40]

    readings = Recognizer(letters(), CHARSET, BUCKETS).read(
        [crop(level, width) for level, width in zip(levels, widths, strict=True)]
    )

    assert [reading.text[0] for reading in readings] == [
        CHARSET[round(level / 255 * 25) + 1] for level in levels
    ]


def test_no_crops_no_run() -> None:
    engine = letters()

    assert Recognizer(engine, CHARSET, BUCKETS).read([]) == []
    assert engine.batches == []


def test_a_charset_that_is_not_the_engines_is_refused() -> None:
    with pytest.raises(ValueError, match="28 classes, its charset 27"):
        Recognizer(letters(), CHARSET[:-1], BUCKETS)


def test_the_classifier_turns_what_it_is_sure_of() -> None:
    def compute(inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        down = (inputs["x"][:, 0, :, :8].mean(axis=(1, 2)) + 1) / 2
        return {"y": np.stack([1 - down, down], axis=1).astype(np.float32)}

    engine = FakeEngine(
        [TensorSpec("x", ("n", 3, 48, 192), "float32")],
        [TensorSpec("y", ("n", 2), "float32")],
        compute,
        max_batch=2,
    )

    turned = AngleClassifier(engine).upside_down([crop(0, 50), crop(255, 50), crop(225, 900), crop(240, 9)])

    assert turned == [False, True, False, True]
    assert engine.batches == [2, 2]

"""Masks: drawing them at any size, and how alike two are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scene_graph.psgtr.masks import SURE, box_overlaps, draw, overlaps
from services.scene_graph.psgtr.pixels import Fit


def fit(height: int, width: int, rows: int, columns: int) -> Fit:
    scaled = (rows * 4, columns * 4)
    return Fit(height, width, *scaled, *(-(-side // 32) * 32 for side in scaled))


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 120),
    st.integers(1, 120),
    st.integers(1, 12),
    st.integers(1, 12),
)
@settings(max_examples=60)
def test_a_mask_is_the_interpolated_logits_above_the_bar(
    seed: int, height: int, width: int, rows: int, columns: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=4, size=(rows, columns)).astype(np.float32)
    logits[rng.random(logits.shape) < rng.random()] = -9
    drawn = draw(logits, fit(height, width, rows, columns)).full(height, width)
    y = np.clip((np.arange(height) + 0.5) * rows / height - 0.5, 0, rows - 1)
    x = np.clip((np.arange(width) + 0.5) * columns / width - 0.5, 0, columns - 1)
    wide = np.stack([np.interp(x, np.arange(columns), row) for row in logits])
    expected = np.stack([np.interp(y, np.arange(rows), column) for column in wide.T], axis=1)
    doubtful = np.abs(expected - SURE) < 1e-4
    np.testing.assert_array_equal(drawn[~doubtful], expected[~doubtful] > SURE)


def test_padding_below_the_picture_is_cut_off() -> None:
    """A picture of 24 x 32 input pixels in 32 x 32: six rows of cells, sure in the lower three."""
    logits = np.full((6, 8), -20, np.float32)
    logits[3:] = 20
    mask = draw(logits, Fit(48, 64, 24, 32, 32, 32)).full(48, 64)
    assert not mask[:22].any()
    assert mask[26:].all()


def test_nothing_sure_draws_nothing() -> None:
    mask = draw(np.full((4, 4), -1, np.float32), fit(30, 40, 4, 4))
    assert mask.pixels.shape == (0, 0)
    assert not mask.full(30, 40).any()


def test_overlaps() -> None:
    masks = np.zeros((4, 4, 4), np.bool_)
    masks[0, :2], masks[1, :1], masks[2, 2:] = True, True, True
    np.testing.assert_allclose(overlaps(masks[0], masks[:3]), [1, 0.5, 0])
    assert np.isnan(overlaps(masks[3], masks[3:])).all()
    weights = np.ones((4, 4), np.float32)
    weights[1] = 3  # the row that the second lacks counts thrice
    np.testing.assert_allclose(overlaps(masks[0], masks[1:2], weights), [0.25])


def test_box_overlaps() -> None:
    boxes = np.array(
        [[0, 0, 1, 1], [0, 0, 0.5, 1], [0.5, 0.5, 1.5, 1.5], [2, 2, 3, 3], [0, 0, 0, 0]], np.float32
    )
    assert box_overlaps(boxes[0], boxes) == pytest.approx([1, 0.5, 0.25 / 1.75, 0, 0])
    assert box_overlaps(boxes[4], boxes[4:]) == pytest.approx([0])

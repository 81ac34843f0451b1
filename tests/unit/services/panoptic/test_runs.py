"""One reading of a partition says the same as comparing it with every number in turn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.panoptic.runs import Runs, segment_rles
from serving.masks import box_from_mask, encode_rle


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 5),
    st.sampled_from("CF"),
)
def test_masks_boxes_and_areas_are_those_of_each_number(
    seed: int, height: int, width: int, numbers: int, order: str
) -> None:
    rng = np.random.default_rng(seed)
    # In blocks, so that runs are long and wrap from one column into the next.
    block = int(rng.integers(1, 6))
    low = rng.integers(0, numbers, (-(-height // block), -(-width // block)))
    whole = np.kron(low, np.ones((block, block), np.int64))[:height, :width].astype(np.uint16)
    segment_map = np.asfortranarray(whole) if order == "F" else np.ascontiguousarray(whole)
    runs = Runs.of(segment_map, numbers)
    rles = segment_rles(segment_map, numbers)
    assert len(rles) == numbers
    for number in range(numbers):
        mask = segment_map == number
        assert rles[number] == encode_rle(mask)
        assert runs.areas[number] == mask.sum()
        assert tuple(runs.boxes[number].tolist()) == (box_from_mask(mask) or (0, 0, 0, 0))


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="below 3"):
        Runs.of(np.full((2, 2), 3, np.uint16), 3)


def test_an_empty_map_has_no_runs() -> None:
    runs = Runs.of(np.zeros((0, 4), np.uint16), 2)
    assert segment_rles(np.zeros((0, 4), np.uint16), 2)[1].counts == b""
    assert not runs.areas.any()

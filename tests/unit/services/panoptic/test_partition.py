"""Laws of the partition, for any instances: every pixel in one segment, the best claim wins, nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from services.panoptic.partition import NOBODY, partition
from serving.masks import box_from_mask
from serving.yolo import CroppedMask

HEIGHT, WIDTH = 12, 17


@st.composite
def cropped_masks(draw: st.DrawFn) -> CroppedMask:
    top, left = draw(st.integers(0, HEIGHT - 1)), draw(st.integers(0, WIDTH - 1))
    height, width = draw(st.integers(0, HEIGHT - top)), draw(st.integers(0, WIDTH - left))
    return CroppedMask(top, left, draw(hnp.arrays(np.bool_, (height, width))))


MASKS = st.lists(cropped_masks(), max_size=6)


@given(MASKS, st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_every_pixel_belongs_to_exactly_one_segment_and_boxes_and_areas_are_its(
    masks: list[CroppedMask], threshold: float
) -> None:
    parts = partition(masks, HEIGHT, WIDTH, overlap_threshold=threshold)
    assert parts.segment_map.shape == (HEIGHT, WIDTH)
    numbers = range(len(parts.members) + 1)
    segments = [parts.segment_map == number for number in numbers]
    np.testing.assert_array_equal(np.sum(segments, axis=0), 1)
    assert parts.areas.tolist() == [segment.sum() for segment in segments]
    assert parts.areas[1:].all()
    assert [tuple(box) for box in parts.boxes.tolist()] == [
        box_from_mask(segment) or (0, 0, 0, 0) for segment in segments
    ]


@given(MASKS, st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_it_is_what_the_definition_says(masks: list[CroppedMask], threshold: float) -> None:
    expected = np.full((HEIGHT, WIDTH), NOBODY, np.uint16)
    members = []
    for index, mask in enumerate(masks):
        full = mask.full(HEIGHT, WIDTH)
        free = full & (expected == NOBODY)
        if free.any() and free.sum() / full.sum() >= threshold:
            members.append(index)
            expected[free] = len(members)
    parts = partition(masks, HEIGHT, WIDTH, overlap_threshold=threshold)
    assert parts.members == tuple(members)
    np.testing.assert_array_equal(parts.segment_map, expected)


def mask_of(rows: list[str]) -> CroppedMask:
    return CroppedMask(0, 0, np.array([[cell == "#" for cell in row] for row in rows]))


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.0, ["1122", "1122"]),
        (0.5, ["1122", "1122"]),
        (0.6, ["1100", "1100"]),
    ],
)
def test_the_first_claim_wins_and_a_remnant_may_be_dropped(threshold: float, expected: list[str]) -> None:
    first, second = mask_of(["##..", "##.."]), mask_of(["####", "####"])
    parts = partition([first, second], 2, 4, overlap_threshold=threshold)
    assert ["".join(map(str, row)) for row in parts.segment_map.tolist()] == expected


def test_what_a_dropped_instance_leaves_goes_to_the_next() -> None:
    best, second, third = mask_of(["###."]), mask_of(["####"]), mask_of(["...#"])
    parts = partition([best, second, third], 1, 4, overlap_threshold=0.5)
    assert parts.members == (0, 2)
    assert parts.segment_map.tolist() == [[1, 1, 1, 2]]


def test_without_instances_all_is_nobodys() -> None:
    parts = partition([], 3, 4, overlap_threshold=0.5)
    segment_map: NDArray[np.uint16] = parts.segment_map
    assert not segment_map.any()
    assert parts.boxes.tolist() == [[0, 0, 4, 3]]
    assert parts.areas.tolist() == [12]

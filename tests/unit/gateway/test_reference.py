"""Odd output of the published networks: what they do with it, and where they stop."""

from __future__ import annotations

import numpy as np
import pytest

from gateway import crayon, reference
from gateway.crayon import CrayonMaps, GridSegment
from gateway.reference import ReferenceFailure, RelationOutput

TWENTY_ONE = np.arange(1, 22)[None]


def relations(labels: list[int], rows: list[tuple[int, int, int, float]]) -> RelationOutput:
    """Rows of subject, object, predicate (from 0), score."""
    scores = np.zeros((len(rows), 57), np.float32)
    for row, (_, _, predicate, score) in enumerate(rows):
        scores[row, predicate + 1] = score
    pairs = np.array([row[:2] for row in rows], np.int64).reshape(-1, 2)
    return RelationOutput(labels, pairs, scores, np.array([133]))


def test_the_twenty_first_of_a_class_stops_the_reference_but_not_serving() -> None:
    segments = [GridSegment(i, 14) for i in range(1, 22)]
    maps = reference.crayon_maps(TWENTY_ONE, segments)
    assert maps.ordinals.max() == 21
    with pytest.raises(ReferenceFailure, match="21 is outside the table") as failure:
        reference.check_ordinals(maps)
    assert failure.value.reference_error == "IndexError"
    assert crayon.crayon_maps(TWENTY_ONE, segments).ordinals.max() == 20


def test_twenty_of_a_class_pass() -> None:
    reference.check_ordinals(CrayonMaps(np.ones((1, 20), np.uint8), np.arange(1, 21, dtype=np.uint8)[None]))


def test_an_unlisted_segment_takes_after_the_one_before_it() -> None:
    maps = reference.crayon_maps(np.array([[1, 2]]), [GridSegment(1, 16)])
    assert maps.classes.tolist() == [[17, 17]]
    with pytest.raises(ReferenceFailure) as failure:
        reference.crayon_maps(np.array([[1, 2]]), [GridSegment(2, 16)])
    assert failure.value.reference_error == "UnboundLocalError"


def test_a_listed_segment_that_is_absent_stops_the_crayon_and_silences_the_regions() -> None:
    grid, segments = np.array([[1, 1]]), [GridSegment(1, 15), GridSegment(2, 16)]
    with pytest.raises(ReferenceFailure) as failure:
        reference.crayon_objects(grid, segments)
    assert failure.value.reference_error == "IndexError"
    assert reference.panoptic_regions(grid, segments) == []


def test_boxes_are_scaled_in_float32() -> None:
    assert reference.scaled_boxes(np.ones((490, 490), int))[1] == (
        0.0,
        0.0,
        0.9999999403953552,
        0.9999999403953552,
    )


def test_relations_in_the_order_asked_for() -> None:
    output = relations([1, 42], [(0, 1, 21, 0.9), (1, 0, 2, 0.95), (0, 1, 4, 0.7)])
    assert reference.strongest_rows(output) == [1, 0]
    told = reference.relation_sentence(output, [1, 0]).text
    assert told.endswith("cup is beside person, and person is holding cup.")


def test_too_few_relations_or_an_unknown_object_say_nothing() -> None:
    assert reference.relation_sentence(relations([1, 2, 3], [(0, 1, 0, 0.9)]), [0]).text == ""
    assert reference.relation_sentence(relations([1], [(0, 5, 0, 0.9)]), [0]).text == ""


@pytest.mark.parametrize(("labels", "panoptic"), [([134], [133]), ([1], [2134])])
def test_a_label_without_a_class_stops_the_reference(labels: list[int], panoptic: list[int]) -> None:
    output = relations(labels, [(0, 0, 0, 0.9)])
    with pytest.raises(ReferenceFailure, match="has no class"):
        reference.relation_sentence(
            RelationOutput(output.labels, output.pairs, output.scores, np.array(panoptic)), [0]
        )


def test_no_result_of_the_text_reader_stops_the_reference() -> None:
    with pytest.raises(ReferenceFailure) as failure:
        reference.text_lines(None)
    assert failure.value.reference_error == "TypeError"
    assert reference.text_lines([[[[0, 0]], ["a", 0.9]]]) == [("a", 0.9)]

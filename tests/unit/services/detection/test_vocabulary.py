"""What a closed vocabulary makes of a caller's words: a table of both, and laws that hold for any words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.detection.names import GROUPS, IRREGULAR_PLURALS, NAMES
from services.detection.vocabulary import Vocabulary
from serving.coco import COCO_80

VOCABULARY = Vocabulary(COCO_80)


def labels(term: str) -> list[str]:
    return [COCO_80[label] for label in VOCABULARY.map_term(term).label_ids]


@pytest.mark.parametrize(
    ("term", "label"),
    [
        ("person", "person"),
        ("People", "person"),
        ("the woman", "person"),
        ("kids", "person"),
        ("Children", "person"),
        ("policemen", None),
        ("bicycles", "bicycle"),
        ("bikes", "bicycle"),
        ("buses", "bus"),
        ("an aeroplane", "airplane"),
        ("traffic-lights", "traffic light"),
        ("fire_hydrant", "fire hydrant"),
        ("knives", "knife"),
        ("sofa", "couch"),
        ("couches", "couch"),
        ("Television", "tv"),
        ("TVs", "tv"),
        ("wine glasses", "wine glass"),
        ("glasses", None),
        ("puppies", "dog"),
        ("sheep", "sheep"),
        ("  potted   plants. ", "potted plant"),
        ("skis", "skis"),
        ("ski", "skis"),
        ("scissors", "scissors"),
        ("ＣＡＲ", "car"),
        ("red car", None),
        ("carpet", None),
        ("helmet", None),
        ("unicorn", None),
        ("the", None),
        ("s", None),
        ("...", None),
        ("🚌", None),
    ],
)
def test_a_term_is_a_label_or_invisible(term: str, label: str | None) -> None:
    assert labels(term) == ([] if label is None else [label])
    assert VOCABULARY.map_term(term).visible is (label is not None)


def test_words_for_several_labels() -> None:
    assert labels("Vehicles") == ["bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"]
    assert labels("pets") == ["cat", "dog"]


def test_the_tables_name_labels_that_exist_and_hide_none() -> None:
    assert set(NAMES.values()) <= set(COCO_80)
    assert {label for members in GROUPS.values() for label in members} <= set(COCO_80)
    assert not set(NAMES) & set(COCO_80)
    assert not set(GROUPS) & (set(COCO_80) | set(NAMES))
    for label in COCO_80:
        assert labels(label) == [label]
        assert labels(label + "s") in ([label], []), label
    for plural, singular in IRREGULAR_PLURALS.items():
        assert labels(plural) == labels(singular) != [], plural


def test_the_most_specific_term_claims_a_class_then_the_first() -> None:
    mapped = VOCABULARY.map(["vehicle", "unicorn", "car", "automobile"])
    assert [term.visible for term in mapped.terms] == [True, False, True, True]
    assert mapped.claims[COCO_80.index("car")] == 2
    assert mapped.claims[COCO_80.index("bus")] == 0
    assert len(mapped.claims) == 8


@given(st.lists(st.text(max_size=30) | st.sampled_from([*COCO_80, *NAMES, *GROUPS]), max_size=20))
def test_any_words_map_without_pretence(terms: list[str]) -> None:
    mapped = VOCABULARY.map(terms)
    assert [term.term for term in mapped.terms] == terms
    for label, index in mapped.claims.items():
        assert label in mapped.terms[index].label_ids
    assert set(mapped.claims) == {label for term in mapped.terms for label in term.label_ids}
    for term in mapped.terms:
        assert list(term.label_ids) == sorted(set(term.label_ids))


def test_entries_for_labels_that_a_model_lacks_are_left_out() -> None:
    small = Vocabulary(("cat", "chair"))
    assert small.map_term("kitten").label_ids == (0,)
    assert small.map_term("furniture").label_ids == (1,)
    assert not small.map_term("sofa").visible

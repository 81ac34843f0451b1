"""The sentences of CoLLaVO and MoAI beyond the golden cases: provenance, order, numbers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.verbalizer import (
    COCO_PANOPTIC,
    PSG_PREDICATES,
    CrayonObject,
    Detection,
    Region,
    RelatedObject,
    Relation,
    TextLine,
    Verbalization,
    crayon_question,
    display_name,
    join_moai,
    strongest_relations,
    verbalize_collavo,
    verbalize_detections,
    verbalize_regions,
    verbalize_relations,
    verbalize_text,
)

BOX = (0.0, 0.16, 0.29, 0.88)
fractions = st.floats(-2, 2, allow_nan=False)
boxes = st.tuples(fractions, fractions, fractions, fractions)
names = st.sampled_from(COCO_PANOPTIC)


def test_the_tables_are_whole() -> None:
    assert len(COCO_PANOPTIC) == len(set(COCO_PANOPTIC)) == 133
    assert len(PSG_PREDICATES) == len(set(PSG_PREDICATES)) == 56
    assert all(name == " ".join(name.split()) for name in (*COCO_PANOPTIC, *PSG_PREDICATES))


def test_no_two_classes_share_a_display_name() -> None:
    assert len({display_name(name) for name in COCO_PANOPTIC}) == len(COCO_PANOPTIC)


def test_crayon_sentence() -> None:
    said = verbalize_collavo(
        [CrayonObject("person", BOX), CrayonObject("tree-merged", BOX), CrayonObject("person", BOX)]
    )
    assert crayon_question(said, "How many?") == (
        "The image includes (#1 person) [0.00, 0.16, 0.29, 0.88], (#1 tree) [0.00, 0.16, 0.29, 0.88], "
        "(#2 person) [0.00, 0.16, 0.29, 0.88]. How many?"
    )
    nothing = crayon_question(verbalize_collavo([]), "How many?")
    assert nothing == "None of detailed object information for image. How many?"


def test_the_four_sentences_and_their_provenance() -> None:
    regions = verbalize_regions([Region("grass-merged", BOX)])
    detections = verbalize_detections([Detection("cup", BOX, 0.4), Detection("tree-merged", BOX, 0.5)])
    relations = verbalize_relations(
        [RelatedObject("person", BOX), RelatedObject("person"), RelatedObject("cup", (0.5, 0.0, 1.0, 0.2))],
        [Relation(0, "holding", 2, 0.9), Relation(1, "on", 0, 0.7), Relation(1, "beside", 0, 0.8)],
    )
    text = verbalize_text([TextLine("x", 0.2), TextLine("STOP", 0.85)])
    whole = join_moai(regions, detections, relations, text)
    assert whole.text == (
        "The image includes bounding box coordinates and their objects: [0.00, 0.16, 0.29, 0.88] grass. "
        "The image includes bounding box coordinates and their objects: [0.00, 0.16, 0.29, 0.88] tree-merged. "
        "The image includes relationships between objects: person (#1) is holding cup, "
        "and person (#2) is beside person (#1). "
        "The image includes text descriptions: STOP."
    )
    found = [(whole.text[p.start : p.end], p.expert, p.sources, p.box) for p in whole.phrases]
    assert found == [
        ("[0.00, 0.16, 0.29, 0.88] grass", "panoptic", (0,), BOX),
        ("[0.00, 0.16, 0.29, 0.88] tree-merged", "detection", (1,), BOX),
        ("person (#1) is holding cup", "scene_graph", (0,), (0.0, 0.0, 1.0, 0.88)),
        ("person (#2) is beside person (#1)", "scene_graph", (2,), None),
        ("STOP", "ocr", (1,), None),
    ]


def test_nothing_seen_is_three_spaces() -> None:
    nothing = Verbalization("")
    assert (
        join_moai(verbalize_regions([]), verbalize_detections([]), nothing, verbalize_text([])).text == "   "
    )


def test_an_unknown_object_in_a_relation_is_an_error() -> None:
    with pytest.raises(IndexError):
        verbalize_relations([RelatedObject("cat")], [Relation(0, "on", 1, 0.9)])


def test_strongest_relations_first_and_no_more_than_objects() -> None:
    relations = [Relation(0, "on", 1, score / 100) for score in (81, 99, 90, 90)]
    kept = strongest_relations(relations, objects=3)
    assert [relation.score for relation in kept] == [0.99, 0.9, 0.9]
    assert kept[1] is relations[2]
    assert len(strongest_relations(relations * 5, objects=100)) == 10


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(CrayonObject, names, boxes), max_size=20))
def test_crayon_phrases_are_where_they_say(objects: list[CrayonObject]) -> None:
    said = verbalize_collavo(objects)
    assert [phrase.sources for phrase in said.phrases] == [(i,) for i in range(len(objects))]
    for phrase, seen in zip(said.phrases, objects, strict=True):
        words = said.text[phrase.start : phrase.end]
        assert words.startswith("(#")
        assert f" {display_name(seen.label)}) [" in words
        assert words.endswith("]")
        assert phrase.box == seen.box


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.builds(Region, names, boxes), max_size=5),
    st.lists(st.builds(Detection, st.text(min_size=1, max_size=9), boxes, st.floats(0, 1)), max_size=5),
    st.lists(st.builds(TextLine, st.text(min_size=1, max_size=9), st.floats(0, 1)), max_size=5),
)
def test_joined_phrases_are_where_they_say(
    regions: list[Region], detections: list[Detection], lines: list[TextLine]
) -> None:
    whole = join_moai(
        verbalize_regions(regions), verbalize_detections(detections), Verbalization(""), verbalize_text(lines)
    )
    for phrase in whole.phrases:
        (source,) = phrase.sources
        words = whole.text[phrase.start : phrase.end]
        if phrase.expert == "ocr":
            assert words == lines[source].text
        else:
            seen = regions[source] if phrase.expert == "panoptic" else detections[source]
            assert words.startswith("[")
            assert words.endswith(display_name(seen.label) if phrase.expert == "panoptic" else seen.label)

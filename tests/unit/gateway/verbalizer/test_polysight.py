"""The sentences the embedded model reads: wording, numbers, order, bounds, provenance."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.verbalizer import Box, SeenObject, SeenRelation, SeenText, Verbalization, verbalize_polysight
from gateway.verbalizer.polysight import MAX_LINES, MAX_OBJECTS, MAX_RELATIONS

HALF: Box = (0.0, 0.0, 0.5, 1.0)
CORNER: Box = (0.9, 0.9, 1.0, 1.0)

fractions = st.floats(-0.1, 1.1, allow_nan=False)
boxes = st.tuples(fractions, fractions, fractions, fractions)
labels = st.sampled_from(
    ["person", "wall-other-merged", "unlabelled", "traffic light", "<image>", ""]
) | st.text(max_size=60)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[SeenObject], list[SeenRelation], list[SeenText]]:
    objects = draw(st.lists(st.builds(SeenObject, labels, boxes), max_size=30))
    places = st.integers(0, max(len(objects) - 1, 0))
    predicates = st.sampled_from(["riding", "on", "</s>", " "])
    relations = st.lists(st.builds(SeenRelation, places, predicates, places), max_size=15 if objects else 0)
    return objects, draw(relations), draw(st.lists(st.builds(SeenText, st.text(max_size=100)), max_size=15))


def phrases(said: Verbalization) -> list[str]:
    return [said.text[phrase.start : phrase.end] for phrase in said.phrases]


def test_three_sentences_with_the_same_numbers_in_objects_and_relations() -> None:
    said = verbalize_polysight(
        [
            SeenObject("bicycle", (0.3, 0.5, 0.5, 0.8)),
            SeenObject("person", HALF),
            SeenObject("person", CORNER),
        ],
        [SeenRelation(1, "riding", 0), SeenRelation(2, "looking at", 1)],
        [SeenText("STOP"), SeenText("EXIT\n 12")],
    )
    assert said.text == (
        "The image includes (#1 person) [0.00, 0.00, 0.50, 1.00], (#2 person) [0.90, 0.90, 1.00, 1.00], "
        "(#1 bicycle) [0.30, 0.50, 0.50, 0.80]. "
        "The image includes relationships between objects: person (#1) is riding bicycle, "
        "and person (#2) is looking at person (#1). "
        "The image includes text descriptions: STOP, and EXIT 12."
    )
    assert [(phrase.expert, phrase.sources) for phrase in said.phrases] == [
        ("panoptic", (1,)),
        ("panoptic", (2,)),
        ("panoptic", (0,)),
        ("scene_graph", (0,)),
        ("scene_graph", (1,)),
        ("ocr", (0,)),
        ("ocr", (1,)),
    ]
    assert said.phrases[3].box == (0.0, 0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("objects", "relations", "lines", "text"),
    [
        ([], [], [], "None of detailed object information for image."),
        ([SeenObject("unlabelled", HALF)], [], [], "None of detailed object information for image."),
        ([], [], [SeenText("a")], "The image includes text descriptions: a."),
        ([], [], [SeenText(" \n"), SeenText("b")], "The image includes text descriptions: b."),
        (
            [SeenObject("cat", HALF), SeenObject("Unlabelled", CORNER)],
            [SeenRelation(0, "on", 1)],
            [],
            "The image includes (#1 cat) [0.00, 0.00, 0.50, 1.00].",
        ),
        (
            [SeenObject("sky-other-merged", (-0.01, -0.0, 1.2, 0.005))],
            [],
            [],
            "The image includes (#1 sky) [0.00, 0.00, 1.00, 0.01].",
        ),
    ],
)
def test_what_is_missing_is_left_out(
    objects: list[SeenObject], relations: list[SeenRelation], lines: list[SeenText], text: str
) -> None:
    assert verbalize_polysight(objects, relations, lines).text == text


def test_every_class_keeps_its_largest_object_in_a_crowd() -> None:
    crowd = [SeenObject("person", HALF)] * (MAX_OBJECTS + 5)
    said = verbalize_polysight([*crowd, SeenObject("tie", CORNER)], [SeenRelation(MAX_OBJECTS + 4, "on", 0)])
    assert len(said.phrases) == MAX_OBJECTS
    assert phrases(said)[-1].startswith("(#1 tie)")
    assert phrases(said)[-2].startswith(f"(#{MAX_OBJECTS - 1} person)")
    assert "relationships" not in said.text


def test_area_goes_before_the_box() -> None:
    said = verbalize_polysight([SeenObject("cat", HALF, area=0.1), SeenObject("dog", CORNER, area=0.2)])
    assert phrases(said)[0].startswith("(#1 dog)")


@pytest.mark.parametrize("relation", [SeenRelation(0, "on", 1), SeenRelation(-1, "on", 0)])
def test_a_relation_with_an_object_that_is_not_there_is_an_error(relation: SeenRelation) -> None:
    with pytest.raises(IndexError, match="1 objects"):
        verbalize_polysight([SeenObject("cat", HALF)], [relation])


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_phrases_are_where_they_say(
    scene: tuple[list[SeenObject], list[SeenRelation], list[SeenText]],
) -> None:
    objects, relations, lines = scene
    said = verbalize_polysight(objects, relations, lines)
    end = 0
    for phrase in said.phrases:
        assert end <= phrase.start < phrase.end <= len(said.text)
        end = phrase.end
        words = said.text[phrase.start : phrase.end]
        if phrase.expert == "panoptic":
            assert re.fullmatch(r"\(#\d+ .+\) \[\d\.\d\d, \d\.\d\d, \d\.\d\d, \d\.\d\d\]", words)
            assert phrase.box == objects[phrase.sources[0]].box
        elif phrase.expert == "scene_graph":
            assert " is " in words
        else:
            assert phrase.expert == "ocr"


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_length_and_control_tokens_are_bounded(
    scene: tuple[list[SeenObject], list[SeenRelation], list[SeenText]],
) -> None:
    said = verbalize_polysight(*scene)
    kinds = [phrase.expert for phrase in said.phrases]
    assert kinds.count("panoptic") <= MAX_OBJECTS
    assert kinds.count("scene_graph") <= MAX_RELATIONS
    assert kinds.count("ocr") <= MAX_LINES
    assert "<image>" not in said.text
    assert "</s>" not in said.text
    assert "unlabelled" not in [part.lower() for part in re.findall(r"#\d+ (.+?)\)", said.text)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["person", "bus", "cat"]), max_size=MAX_OBJECTS))
def test_the_last_number_of_a_class_is_its_count(names: list[str]) -> None:
    said = verbalize_polysight([SeenObject(name, HALF) for name in names])
    last = {name: int(number) for number, name in re.findall(r"\(#(\d+) (\w+)\)", said.text)}
    assert last == {name: names.count(name) for name in set(names)}

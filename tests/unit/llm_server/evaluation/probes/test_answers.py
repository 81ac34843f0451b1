"""When an answer to a probe is right, and what a perfect reader says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.evaluation.harness.example import Example, PictureFile, Record, SeenObject
from llm_server.evaluation.probes.answers import boxes_in, class_in, mark
from llm_server.evaluation.probes.perfect_reader import READERS, answer

PEOPLE = [(0.0, 0.0, 0.2, 0.8), (0.3, 0.0, 0.5, 0.8)]


def probe(group: str, expected: str, **details: object) -> Example:
    return Example("1", group, PictureFile(Path("1.png")), "?", expected, details=details)


@pytest.mark.parametrize(
    ("example", "said", "score"),
    [
        (probe("existence", "Yes.", name="dog"), "Yes, there are 2 dogs.", 1),
        (probe("existence", "Yes.", name="dog"), "yes", 1),
        (probe("existence", "No.", name="dog"), "Yes.", 0),
        (probe("existence", "No.", name="dog"), "There is no dog.", 0),
        (probe("pope_random", "No", name="dog"), "No, there is no", 1),
        (probe("count", "2.", name="dog"), "There are two dogs in the picture.", 1),
        (probe("count", "2.", name="dog"), "12", 0),
        (probe("count", "2.", name="dog"), "Several.", 0),
        (probe("box_to_class", "cup.", name="cup"), "Cup", 1),
        (probe("box_to_class", "cup.", name="cup"), "The cup (#2).", 1),
        (probe("box_to_class", "cup.", name="cup"), "It is a cup.", 1),
        (probe("box_to_class", "cup.", name="cup"), "(#1 cup) [0.10, 0.20, 0.30, 0.40]", 1),
        (probe("box_to_class", "couch.", name="couch"), "sofa", 1),
        (probe("box_to_class", "person.", name="person"), "People", 1),
        (probe("box_to_class", "cup.", name="cup"), "cupboard", 0),
        (probe("box_to_class", "cup.", name="cup"), "", 0),
        (probe("class_to_box", "", name="person", boxes=PEOPLE), "[0.0, 0.0, 0.2, 0.8], [0.3, 0, 0.5, .8]", 1),
        (probe("class_to_box", "", name="person", boxes=PEOPLE), "It is (#1 person) [0.0, 0.0, 0.2, 0.8].", 2 / 3),
        (probe("class_to_box", "", name="person", boxes=PEOPLE), "[0.0, 0.0, 0.2]", 0),
        (probe("class_to_box", "", name="person", boxes=PEOPLE), "There is no person.", 0),
    ],
)  # fmt: skip
def test_right_and_wrong(example: Example, said: str, score: float) -> None:
    assert mark(example, said).score == pytest.approx(score)


@given(st.text(alphabet="[]0123456789.,-+ ab(#)", max_size=60))
def test_no_answer_breaks_the_parsers(said: str) -> None:
    assert all(len(box) == 4 for box in boxes_in(said))
    assert class_in(said) == class_in(said).lower()


def record(experts: dict[str, str], words: str = "") -> Record:
    seen = [
        SeenObject("person", PEOPLE[0], 0.9, "panoptic"),
        SeenObject("person", PEOPLE[0], 0.9, "detection"),
        SeenObject("person", PEOPLE[1], 0.6, "detection"),
        SeenObject("dog", (0.6, 0.6, 0.9, 0.9), 0.4, "detection"),
        SeenObject("bus", (0.1, 0.1, 0.9, 0.9), 0.8, "scene_graph"),
    ]
    return Record("1", "count", "adapters", "f", "?", "1.png", "2.", words, "", seen, {}, experts, {}, 0)


@pytest.mark.parametrize(
    ("experts", "names"),
    [
        ({"panoptic": "ok", "detection": "ok", "scene_graph": "ok"}, ["person"]),
        ({"panoptic": "failed", "detection": "ok", "scene_graph": "ok"}, ["person", "person"]),
        ({"panoptic": "timed_out", "detection": "skipped", "scene_graph": "ok"}, ["bus"]),
    ],
)
def test_the_perfect_reader_reads_what_the_gateway_words(experts: dict[str, str], names: list[str]) -> None:
    assert [seen.name for seen in READERS["reports"](record(experts))] == names


def test_the_words_are_read_as_they_are() -> None:
    words = (
        "The image includes (#1 person) [0.00, 0.00, 0.20, 0.80], (#1 wine glass) [0.50, 0.50, 0.60, 0.70]."
    )
    read = READERS["words"](record({"panoptic": "ok"}, words))
    assert [(seen.name, seen.box) for seen in read] == [
        ("person", (0.0, 0.0, 0.2, 0.8)),
        ("wine glass", (0.5, 0.5, 0.6, 0.7)),
    ]
    assert len(READERS["detection"](record({}))) == 2


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (probe("existence", "", name="person"), "Yes."),
        (probe("pope_popular", "", name="dog"), "No."),
        (probe("count", "", name="person"), "1."),
        (probe("count", "", name="dog"), "0."),
        (
            probe("class_to_box", "", name="person", boxes=PEOPLE),
            "Sure, it is (#1 person) [0.00, 0.00, 0.20, 0.80].",
        ),
        (probe("class_to_box", "", name="dog", boxes=PEOPLE), "There is no dog."),
        (probe("box_to_class", "", name="person", box=(0.1, 0.0, 0.3, 0.8)), "person."),
        (probe("box_to_class", "", name="person", box=(0.9, 0.9, 1.0, 1.0)), "nothing."),
    ],
)
def test_what_a_perfect_reader_says(example: Example, expected: str) -> None:
    assert answer(example, READERS["reports"](record({"panoptic": "ok"}))) == expected


def test_questions_about_something_else_have_no_perfect_reader() -> None:
    with pytest.raises(ValueError, match="text"):
        answer(probe("text", "", name="x"), [])

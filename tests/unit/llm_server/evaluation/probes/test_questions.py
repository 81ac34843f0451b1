"""Which questions are made of a picture, and how they are worded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from llm_server.evaluation.probes.answers import mark
from llm_server.evaluation.probes.coco import AnnotatedSet
from llm_server.evaluation.probes.pope import SPLITS, make_pope
from llm_server.evaluation.probes.prompts import FORMS
from llm_server.evaluation.probes.questions import KINDS, make_questions
from llm_server.training.object_questions import B2C
from llm_server.training.vl_questions import C2B

Annotate = Callable[..., AnnotatedSet]
PUBLISHED = FORMS["published"]
STREET = [
    ("person", 0, 0, 20, 80),
    ("person", 30, 0, 20, 80),
    ("bus", 10, 5, 60, 60),
    ("dog", 70, 70, 20, 20),
]


def test_the_published_sentences_are_those_of_the_paper() -> None:
    assert PUBLISHED.ask_existence("bottle") == (
        'Is there an instance of the category "bottle" in the image? There may be multiple instances which are '
        "grouped together. Answer the question using either yes or no."
    )
    assert PUBLISHED.ask_class((0.58, 0.23, 0.61, 0.41)) == (
        "Let's say the upper left corner of the image is [0.0, 0.0], the bottom right corner of the image is "
        "[1.0, 1.0]. What is the main object whose upper left corner is [0.58, 0.23] and whose bottom right corner "
        "is [0.61, 0.41] in the image? Answer the question using a single word or phrase."
    )
    assert (
        PUBLISHED.ask_boxes("person") == "Provide multiple bounding box coordinates for person in the image."
    )
    assert PUBLISHED.ask_count("person") == "How many people are there in the image?"


def test_the_short_sentences_are_those_the_adapters_were_trained_on() -> None:
    assert FORMS["short"].ask_existence("dog") == C2B.format(name="dog")
    assert FORMS["short"].ask_class((0.5, 0.25, 0.75, 1.0)) == B2C.format(box="[0.50, 0.25, 0.75, 1.00]")


def test_each_kind_asks_what_it_should(annotate: Annotate) -> None:
    made = make_questions(annotate({1: STREET}), PUBLISHED)
    asked = {kind: [one for one in made if one.group == kind] for kind in KINDS}
    assert Counter(one.expected for one in asked["existence"]) == {"Yes.": 3, "No.": 3}
    assert {one.details["name"]: one.expected for one in asked["count"]} == {
        "person": "2.",
        "bus": "1.",
        "dog": "1.",
    }
    assert [len(one.details["boxes"]) for one in asked["class_to_box"]] == [2, 1, 1]
    assert [one.expected for one in asked["box_to_class"]] == ["person.", "person.", "bus.", "dog."]
    assert len({one.id for one in made}) == len(made)
    assert all(mark(one, one.expected).score == 1.0 for one in made)


def test_crowds_are_there_but_are_neither_counted_nor_boxed(annotate: Annotate) -> None:
    made = make_questions(annotate({1: STREET}, crowds=("person",)), PUBLISHED)
    about = Counter(one.group for one in made if one.details["name"] == "person")
    assert about == {"existence": 1}


def test_many_are_not_counted_and_boxes_of_two_names_not_named(annotate: Annotate) -> None:
    many = [("cup", 10 * i, 0, 8, 8) for i in range(6)]
    twins = [("tv", 0, 50, 30, 30), ("couch", 0, 50, 30, 30), ("dog", 50, 50, 0.2, 0.2)]
    made = make_questions(annotate({1: many + twins}), PUBLISHED)
    assert {one.details["name"] for one in made if one.group == "count"} == {"tv", "couch", "dog"}
    assert {one.details["name"] for one in made if one.group == "box_to_class"} == {"cup"}


def test_a_picture_without_objects_is_asked_about_absent_ones(annotate: Annotate) -> None:
    made = make_questions(annotate({1: []}), PUBLISHED)
    assert [one.expected for one in made] == ["No."] * 3


def test_the_same_seed_asks_the_same(annotate: Annotate) -> None:
    pictures = annotate(dict.fromkeys(range(5), STREET))
    first, again, other = (make_questions(pictures, PUBLISHED, seed=seed, limit=7) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert set(Counter(one.group for one in first).values()) == {7}


@pytest.mark.parametrize("seed", range(3))
def test_pope_asks_as_often_for_what_is_not_there(annotate: Annotate, seed: int) -> None:
    pictures = annotate(
        {
            1: STREET,
            2: [("cup", 0, 0, 9, 9), ("tv", 9, 9, 9, 9), ("couch", 20, 20, 9, 9)],
            3: [("dog", 0, 0, 9, 9)],
        }
    )
    made = make_pope(pictures, seed=seed)
    names = {picture.path.name: picture.names() for picture in pictures.pictures}
    for split in SPLITS:
        asked = [one for one in made if one.group == f"pope_{split}"]
        assert Counter(one.expected for one in asked) == {"Yes": 6, "No": 6}
        for one in asked:
            assert (one.details["name"] in names[one.picture.name]) == (one.expected == "Yes")
        assert {one.picture.name for one in asked} == {"1.png", "2.png"}
    assert made == make_pope(pictures, seed=seed)


def test_pope_draws_popular_and_adversarial_ones_as_published(annotate: Annotate) -> None:
    rows = {n: [("person", 0, 0, 9, 9), ("dog", 9, 9, 9, 9), ("bus", 20, 20, 9, 9)] for n in range(1, 4)}
    rows[4] = [("cup", 0, 0, 9, 9), ("tv", 9, 9, 9, 9), ("couch", 20, 20, 9, 9)]
    rows[5] = [("cup", 0, 0, 9, 9), ("dog", 9, 9, 9, 9), ("tv", 20, 20, 9, 9)]
    made = make_pope(annotate(rows))

    def absent(split: str, picture: int) -> list[str]:
        found = [one for one in made if one.group == f"pope_{split}" and one.picture.name == f"{picture}.png"]
        return [one.details["name"] for one in found if one.expected == "No"]

    # dog is in four pictures, bus and person in three; equal ones go by name.
    assert absent("popular", 4) == ["dog", "bus", "person"]
    # Beside cup and beside tv dog is the one that is not in picture 4; what is left is drawn.
    assert absent("adversarial", 4)[0] in ("dog", "bus", "person")
    assert set(absent("adversarial", 4)) == {"dog", "bus", "person"}
    assert "Is there a dog in the image?\nAnswer the question using a single word or phrase." in {
        one.question for one in made
    }

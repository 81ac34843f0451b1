"""Answers that decline, and answers in the form that was asked for."""

from __future__ import annotations

import pytest

from llm_server.evaluation.declines import about_something_absent, cannot_tell, declines
from llm_server.evaluation.instructions import followed, instruction, letter
from llm_server.training.question import ONE_WORD, YES_NO
from llm_server.training.relation_questions import UNKNOWN
from llm_server.training.vl_questions import NO_TEXT


@pytest.mark.parametrize(
    "answer",
    [
        "No.", "no", "None", "0.", "Nothing.", "Nobody is riding the bicycle.", "No, there is no dog in the picture.",
        "There are no vehicles in the picture.", "The person is not riding anything.", NO_TEXT, UNKNOWN,
        "I can't tell from the picture.", "I can’t tell.", "There isn't any.", "No objects were found in the picture.",
    ],
)  # fmt: skip
def test_what_declines(answer: str) -> None:
    assert declines(answer)


@pytest.mark.parametrize(
    "answer",
    ["Yes.", "", "A notebook.", "Noodles.", "The dog is not small.", "10.", "It says: nothing beats it."],
)
def test_what_does_not(answer: str) -> None:
    assert not declines(answer)


def test_cannot_tell_is_one_way_to_decline() -> None:
    assert cannot_tell(UNKNOWN)
    assert cannot_tell("Sorry, I cannot see that.")
    assert not cannot_tell("No.")


def test_a_no_about_how_things_stand_is_not_about_absence() -> None:
    assert about_something_absent("existence", "No.")
    assert about_something_absent("unknown", UNKNOWN)
    assert not about_something_absent("position", "No.")
    assert not about_something_absent("existence", "Yes.")


def test_forms_that_are_asked_for() -> None:
    assert {instruction(f"What is it? {ending}") for ending in (*ONE_WORD, *YES_NO)} == {"one_word"}
    assert instruction("Answer with the option's letter from the given choices directly.") == "letter"
    assert instruction("How many dogs are there?") is None


@pytest.mark.parametrize(
    ("form", "answer", "has_it"),
    [
        ("letter", "A", True), ("letter", "(B)", True), ("letter", "C.", True), ("letter", "Cat", False),
        ("letter", "A. dog", False), ("one_word", "Bicycle.", True), ("one_word", "Person (#2).", True),
        ("one_word", "The person is riding the bicycle.", False), ("one_word", "", False),
    ],
)  # fmt: skip
def test_whether_an_answer_has_the_form(form: str, answer: str, has_it: bool) -> None:
    assert followed(form, answer) is has_it


def test_a_letter() -> None:
    assert letter(" (D) ") == "D"
    assert letter("AB") is None

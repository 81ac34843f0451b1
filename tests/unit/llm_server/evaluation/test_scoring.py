"""What counts as right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.evaluation.scoring import correct, normalise, number


@pytest.mark.parametrize(
    ("kind", "answer", "expected", "right"),
    [
        ("count", "There are 4 people in the picture.", "4.", True),
        ("count", "four", "There are 4 people in the picture.", True),
        ("count", "There are no dogs in the picture.", "0.", True),
        ("count", "There are 14 people.", "4.", False),
        ("count", "Many.", "4.", False),
        ("count", "", "0.", False),
        ("existence", "Yes, there are 3 dogs in the picture.", "Yes.", True),
        ("existence", "No", "No, there is no dog in the picture.", True),
        ("existence", "Yes.", "No.", False),
        ("existence", "Not sure.", "No.", False),
        ("relation", "a bicycle", "A bicycle.", True),
        ("relation", "The person is riding a bicycle.", "A bicycle.", False),
        ("relation", "It is a bicycle.", "A bicycle.", True),
        ("relation", "Person (#1).", "Person (#2).", False),
        ("relation", "", "A bicycle.", False),
        ("text", 'It says "cero" and emisiones', "It says: cero, emisiones.", False),
        ("text", '"cero", "emisiones"', "It says: cero, emisiones.", True),
        ("text", "The text says: cero, and emisiones.", "It says: cero, emisiones.", True),
        ("text", "It says: emisiones, cero.", "It says: cero, emisiones.", False),
        ("text", "There is no text in the picture.", "It says: cero.", False),
        ("text", "", "It says: cero.", False),
        ("count_category", "3", "There are 3 vehicles in the picture.", True),
        ("count_category", "No vehicles.", "There are no vehicles in the picture.", True),
        ("says", "Yes, it does.", "Yes.", True),
        ("says", "It does.", "Yes.", False),
        ("existence_category", "Yes.", "Yes, a dog and 2 cats.", False),
        ("existence_category", "Yes, a dog and 2 cats", "Yes, a dog and 2 cats.", True),
        ("existence_category", "No.", "No, there is no animal in the picture.", True),
        ("any_text", "No", "No. There is no text in the picture.", True),
        (
            "unknown",
            "I can't tell from the picture.",
            "I cannot tell that from what is seen in the picture.",
            True,
        ),
        ("unknown", "Red.", "I cannot tell that from what is seen in the picture.", False),
        ("category", "A bus", "A bus.", True),
        ("absent", "There is no dog.", "I can't tell from the picture: there is no dog.", True),
        ("absent", "I can't tell.", "I can't tell from the picture: there is no dog.", True),
        ("absent", "It is running.", "I can't tell from the picture: there is no dog.", False),
        ("unknown", "There is no dog.", "I can't tell from the picture.", False),
        ("choice", "A", "A.", True),
        ("choice", "(A)", "A.", True),
        ("choice", "A. A bus", "A.", True),
        ("choice", "A bus", "A.", False),
        ("choice", "", "A.", False),
        ("choice", "The", "A.", False),
        ("choice", "B.", "A.", False),
        ("category", "A bus and a car.", "A bus.", False),
    ],
)
def test_right_and_wrong(kind: str, answer: str, expected: str, right: bool) -> None:
    assert correct(kind, answer, expected) is right


def test_a_bare_answer_is_right_where_it_says_the_same() -> None:
    whole = "The person is riding the bicycle."
    assert correct("relation", "A bicycle.", whole, "Bicycle.")
    assert correct("relation", "It is a bicycle.", whole, "Bicycle.")
    assert correct("relation", "The person is riding a bicycle", whole, "Bicycle.")
    assert not correct("relation", "A bicycle.", whole)
    assert not correct("relation", "A motorcycle.", whole, "Bicycle.")


def test_a_count_needs_a_number_to_compare_with() -> None:
    with pytest.raises(ValueError, match="no number"):
        correct("count", "3", "several")


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing_that_once_did_not(text: str) -> None:
    once = normalise(text)
    assert once == once.lower()
    assert "  " not in once
    assert not once.endswith(".")


@given(st.integers(min_value=0, max_value=10**6))
def test_numbers_are_found(n: int) -> None:
    assert number(f"There are {n} of them.") == n

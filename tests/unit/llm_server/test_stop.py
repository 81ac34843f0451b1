from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.stop import StopMatcher

WORDS = st.text("abc", min_size=1, max_size=4)


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    text = "".join(matcher.push(piece) for piece in pieces)
    return text + matcher.flush(), matcher.matched


def by_looking_at_every_position(stops: list[str], text: str) -> tuple[str, str | None]:
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(st.lists(WORDS, max_size=3), st.lists(st.text("abc", max_size=5), max_size=8))
def test_the_cut_of_the_text_does_not_matter(stops: list[str], pieces: list[str]) -> None:
    assert run(stops, pieces) == by_looking_at_every_position(stops, "".join(pieces))


@given(st.lists(WORDS, min_size=1, max_size=3), st.lists(st.text("abc", max_size=3), max_size=8))
def test_nothing_is_handed_on_that_may_be_taken_back(stops: list[str], pieces: list[str]) -> None:
    matcher, out = StopMatcher(stops), ""
    final = by_looking_at_every_position(stops, "".join(pieces))[0]
    for piece in pieces:
        out += matcher.push(piece)
        assert final.startswith(out)


@given(st.lists(st.text("xyz", max_size=3), max_size=8))
def test_text_without_the_beginning_of_a_stop_is_not_held_back(pieces: list[str]) -> None:
    matcher = StopMatcher(["ab"])
    assert [matcher.push(piece) for piece in pieces] == pieces


def test_a_stop_across_three_tokens() -> None:
    matcher = StopMatcher(["\nUser:"])
    assert [matcher.push(piece) for piece in ["yes", "\nUs", "er", ": hi"]] == ["yes", "", "", ""]
    assert matcher.matched == "\nUser:"
    assert matcher.flush() == ""
    assert matcher.push("more") == ""


def test_a_possible_beginning_is_released_when_it_was_none() -> None:
    matcher = StopMatcher(["\nUser:"])
    assert [matcher.push(piece) for piece in ["yes\n", "Us", "ually"]] == ["yes", "", "\nUsually"]


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopMatcher(["a", ""])

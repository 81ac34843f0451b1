"""Reading boxes out of an answer: what is read, what is refused, and that nothing is run."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_server.prompts.box_parser import AnswerFormatError, NamedBox, parse_named_boxes

hundredths = st.integers(-100, 200).map(lambda value: value / 100)
boxes = st.tuples(hundredths, hundredths, hundredths, hundredths)
names = st.from_regex(r"[a-z]+( [a-z]+)?", fullmatch=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(names, boxes), max_size=6),
    st.sampled_from(["", "Sure, it is "]),
    st.sampled_from(["", "."]),
)
def test_what_was_written_is_read(
    seen: list[tuple[str, tuple[float, float, float, float]]], before: str, after: str
) -> None:
    told = ", ".join(
        f"(#{number} {name}) [{', '.join(f'{value:.2f}' for value in box)}]"
        for number, (name, box) in enumerate(seen, start=1)
    )
    assert parse_named_boxes(before + told + after) == [NamedBox(name, box) for name, box in seen]


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("nothing here", []),
        ("(#1 cat) [0.1, 0.2, 0.3]", []),
        ("(#1 cat) []", []),
        ("(#1 cat) [1, .5, 2., -0.25,]", [NamedBox("cat", (1.0, 0.5, 2.0, -0.25))]),
        ("[0.1, 0.2, 0.3, 0.4] (cat)", [NamedBox("cat", (0.1, 0.2, 0.3, 0.4))]),
    ],
)
def test_odd_but_readable(answer: str, named: list[NamedBox]) -> None:
    assert parse_named_boxes(answer) == named


@pytest.mark.parametrize(
    "answer",
    [
        "(#1 cat [0.1, 0.2, 0.3, 0.4]",
        "[0.1, 0.2, 0.3, 0.4]",
        "(#1 cat) ]0.1, 0.2, 0.3, 0.4[",
        "(#1 cat) [[0.1, 0.2], [0.3, 0.4]]",
        "(#1 cat) [__import__.os, 1, 2, 3]",
        "(#1 cat) [1e3, 0, 0, 0]",
        "(#1 cat) [nan, 0, 0, 0]",
        "(#1 cat) [0x1, 0, 0, 0]",
        "(#1 cat) [1_0, 0, 0, 0]",
        "(#1 cat) [٣, 0, 0, 0]",
        "(#1 cat) [0.1,, 0.2, 0.3]",
        "(#1 cat) [0.1 0.2, 0.3, 0.4, 0.5]",
    ],
)
def test_what_is_no_list_of_decimals_is_refused(answer: str) -> None:
    with pytest.raises(AnswerFormatError):
        parse_named_boxes(answer)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="[](),.#0123456789 -abe_", max_size=40))
def test_any_text_is_read_or_refused(answer: str) -> None:
    try:
        named = parse_named_boxes(answer)
    except AnswerFormatError:
        return
    assert len(named) <= answer.count("[")
    assert all(len(one.box) == 4 for one in named)

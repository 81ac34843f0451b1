"""Greedy CTC decoding: what it merges, what it drops, how sure it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ocr.ctc import Reading, best_classes, decode

CHARSET = ("", "a", "b", "c", " ")


def read(probabilities: np.ndarray) -> list[Reading]:
    return [decode(steps, CHARSET) for steps in best_classes(probabilities, len(CHARSET))]


def one_hot(path: list[int], peak: float = 1.0) -> np.ndarray:
    """(1, steps, classes) probabilities that follow `path` with `peak`, the rest spread evenly."""
    rest = (1 - peak) / (len(CHARSET) - 1)
    table = np.full((len(path), len(CHARSET)), rest, dtype=np.float32)
    table[np.arange(len(path)), path] = peak
    return table[None]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ([], ""),
        ([0, 0, 0], ""),
        ([1], "a"),
        ([1, 1, 1], "a"),
        ([1, 0, 1], "aa"),
        ([0, 1, 1, 0, 0, 2, 3, 3, 0], "abc"),
        ([1, 4, 2], "a b"),
        ([1, 2, 1], "aba"),
    ],
)
def test_a_path_reads_as(path: list[int], text: str) -> None:
    assert read(one_hot(path))[0].text == text


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2)),
        max_size=20,
    )
)
def test_any_alignment_of_a_label_reads_as_the_label(pieces: list[tuple[int, int, int]]) -> None:
    path: list[int] = []
    for label, repeats, blanks in pieces:
        if path and path[-1] == label:
            path.append(0)  # equal neighbours need a blank between, or they are one letter
        path += [label] * repeats + [0] * blanks
    wanted = "".join(CHARSET[label] for label, _, _ in pieces)

    assert read(one_hot(path))[0].text == wanted


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), max_size=30), st.integers(1, 4))
def test_staying_longer_on_every_step_changes_nothing(path: list[int], factor: int) -> None:
    slow = [label for label in path for _ in range(factor)]

    assert read(one_hot(slow))[0].text == read(one_hot(path))[0].text


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.floats(0.3, 1.0))
def test_confidence_is_the_mean_over_the_characters_kept(path: list[int], peak: float) -> None:
    reading = read(one_hot(path, peak))[0]

    if reading.text:
        assert reading.confidence == pytest.approx(peak, abs=1e-6)
    else:
        assert reading.confidence == 0.0
    assert 0.0 <= reading.confidence <= 1.0


def test_blanks_and_repeats_do_not_count_towards_the_confidence() -> None:
    table = np.array(
        [[[0.6, 0.4, 0, 0, 0], [0.1, 0.9, 0, 0, 0], [0.4, 0.6, 0, 0, 0], [0.2, 0, 0.8, 0, 0]]],
        dtype=np.float32,
    )

    reading = read(table)[0]

    assert reading.text == "ab"
    assert reading.confidence == pytest.approx((0.9 + 0.8) / 2)


def test_rows_of_a_batch_are_read_apart() -> None:
    batch = np.concatenate([one_hot([1, 2, 0]), one_hot([3, 3, 3])])

    assert [reading.text for reading in read(batch)] == ["ab", "c"]


@pytest.mark.parametrize("shape", [(1, 4, 6), (4, 5)])
def test_an_output_of_another_alphabet_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="charset of 5"):
        read(np.zeros(shape, dtype=np.float32))


def test_letters_know_where_they_are() -> None:
    """Of ten steps eight are the line's: "a" for the first two, a blank, "b" for three, "c" for the last."""
    (steps,) = best_classes(one_hot([1, 1, 0, 2, 2, 2, 0, 3, 0, 0]), len(CHARSET))

    reading = decode(steps, CHARSET, filled=0.8)

    assert [letter.text for letter in reading.letters] == ["a", "b", "c"]
    assert [(letter.start, letter.end) for letter in reading.letters] == [
        pytest.approx(place) for place in ((0, 0.25), (0.375, 0.75), (0.875, 1.0))
    ]

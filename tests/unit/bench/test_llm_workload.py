"""What the contenders of the language model's bench are asked, and how they are listened to."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest

from bench.llm_workload import ANSWERS, Ask, Heard, asks, listen, picture, spread


class Letters:
    """A tokenizer of characters."""

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(letter) for letter in text]


def test_few_questions_are_as_long_on_average_as_many() -> None:
    for count in (3, 6, 12, 24):
        lengths = [ask.answer for ask in asks(Letters(), count, f"{count}")]
        assert abs(sum(lengths) / count - sum(ANSWERS) / 2) <= 0.5
        assert ANSWERS[0] <= min(lengths) <= max(lengths) <= ANSWERS[1]
    assert sorted(spread((0, 10), 5, random.Random(1))) == [1, 3, 5, 7, 9]


def test_everyone_is_asked_the_same_and_never_about_a_picture_seen_before() -> None:
    first, again, other = (asks(Letters(), 12, seed) for seed in ("a", "a", "b"))
    assert first == again
    assert len({ask.prompt for ask in (*first, *other)}) == 24
    assert picture("a", 12) != picture("b", 12)


def test_each_question_is_asked_once_by_as_many_callers_as_there_are() -> None:
    asked: list[Ask] = []
    here = most = 0
    lock = threading.Lock()

    def answer(ask: Ask) -> Heard:
        nonlocal here, most
        with lock:
            asked.append(ask)
            here += 1
            most = max(most, here)
        time.sleep(0.3)
        with lock:
            here -= 1
        return Heard([7] * ask.answer, [0.1 * step for step in range(ask.answer)])

    questions = asks(Letters(), 6, "callers")
    told = listen(answer, questions, 4)
    assert sorted(map(hash, asked)) == sorted(map(hash, questions))
    assert 2 <= most <= 4
    assert told["tokens"] == sum(ask.answer for ask in questions)
    assert len(told["first_s"]) == 6
    assert len(told["gaps_s"]) == told["tokens"] - 6


def test_a_failure_is_passed_on() -> None:
    def answer(ask: Ask) -> Heard:
        raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        listen(answer, asks(Letters(), 3, "failure"), 1)

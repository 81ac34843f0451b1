"""Contenders in processes of their own: they answer, fail and end as they should."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from bench.llm_process import Answer, ContenderProcess


def start() -> Callable[[Answer], Answer]:
    def answer(wanted: Answer) -> Answer:
        if "exit" in wanted:
            os.write(2, b"and so it goes\n")
            os._exit(3)
        if "sleep" in wanted:
            time.sleep(60)
        return {"pid": os.getpid(), "twice": 2 * wanted["number"]}

    return answer


@pytest.fixture
def process() -> Iterator[ContenderProcess]:
    made = ContenderProcess(start)
    yield made
    made.close()


def test_it_answers_from_another_process(process: ContenderProcess) -> None:
    first = process.ask({"number": 4})
    assert first is not None
    assert first["twice"] == 8
    assert first["pid"] != os.getpid()
    assert process.ask({"number": 5}) == {"pid": first["pid"], "twice": 10}


def test_what_it_raises_is_its_error_and_it_answers_no_more(process: ContenderProcess) -> None:
    assert process.ask({}) is None
    assert process.error == "KeyError: 'number'"
    assert process.ask({"number": 1}) is None


def test_its_death_is_seen(process: ContenderProcess) -> None:
    assert process.ask({"exit": True}) is None
    assert process.error == "ended with 3: and so it goes"


def test_a_start_that_fails_is_told() -> None:
    def broken() -> Callable[[Answer], Answer]:
        raise ValueError("no such model")

    process = ContenderProcess(broken)
    assert process.ask({"number": 1}) is None
    assert process.error == "ValueError: no such model"
    process.close()


def test_it_ends_in_the_middle_of_an_answer(process: ContenderProcess) -> None:
    process._connection.send({"sleep": True})
    began = time.monotonic()
    process.close()
    assert time.monotonic() - began < 10

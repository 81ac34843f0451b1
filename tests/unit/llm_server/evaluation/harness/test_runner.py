"""A run keeps to its bound, survives being cut short, and scores anew."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from llm_server.evaluation.harness.client import Reply
from llm_server.evaluation.harness.example import Condition, Example, PictureFile
from llm_server.evaluation.harness.record_file import RecordFile
from llm_server.evaluation.harness.runner import Mark, run

ONLY = Condition("adapters")


class Answerer:
    """Says the question back; counts, and stops the whole run after `dies_after` questions."""

    def __init__(self, dies_after: int = 10_000) -> None:
        self.asked: list[str] = []
        self.now = self.most = 0
        self._dies_after = dies_after

    async def __call__(self, image: bytes, question: str, condition: Condition, tokens: int) -> Reply:
        if len(self.asked) >= self._dies_after:
            raise asyncio.CancelledError
        self.asked.append(question)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        return Reply(answer=question)


def examples(folder: Path, count: int) -> list[Example]:
    file = folder / "1.png"
    file.write_bytes(b"picture")
    return [
        Example(f"{n}", "echo", PictureFile(file), f"Question {n}", f"Question {n}") for n in range(count)
    ]


def equal(example: Example, answer: str) -> Mark:
    return Mark(float(answer == example.expected), answer)


@pytest.mark.parametrize(("concurrency", "most"), [(1, 1), (3, 3), (50, 20)])
async def test_no_more_are_on_their_way_than_allowed(tmp_path: Path, concurrency: int, most: int) -> None:
    ask = Answerer()
    done: list[int] = []
    ran = await run(
        examples(tmp_path, 20), [ONLY], ask=ask, score=equal, records=RecordFile(tmp_path / "r.jsonl"),
        concurrency=concurrency, advance=done.append,
    )  # fmt: skip
    assert ask.most == most
    assert sum(done) == 20
    assert [record.id for record in ran.records] == [f"{n}" for n in range(20)]
    assert {record.score for record in ran.records} == {1.0}


async def test_a_run_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    asked = examples(tmp_path, 12)
    path = tmp_path / "r.jsonl"
    with pytest.raises(asyncio.CancelledError):
        await run(
            asked, [ONLY], ask=Answerer(dies_after=5), score=equal, records=RecordFile(path), concurrency=1
        )
    assert len(RecordFile(path).records) == 5
    ask = Answerer()
    ran = await run(asked, [ONLY], ask=ask, score=equal, records=RecordFile(path))
    assert (ran.reused, len(ran.records)) == (4, 12)
    # The first is the one asked again, to learn who answers.
    assert sorted(ask.asked) == sorted(["Question 0", *(f"Question {n}" for n in range(5, 12))])


async def test_old_answers_get_new_scores(tmp_path: Path) -> None:
    asked = examples(tmp_path, 3)
    path = tmp_path / "r.jsonl"
    await run(asked, [ONLY], ask=Answerer(), score=equal, records=RecordFile(path))
    again = await run(
        asked, [ONLY], ask=Answerer(), score=lambda example, answer: Mark(0.25, "x"), records=RecordFile(path)
    )
    assert [(record.score, record.read) for record in again.records] == [(0.25, "x")] * 3


async def test_other_settings_are_asked_anew(tmp_path: Path) -> None:
    asked = examples(tmp_path, 3)
    path = tmp_path / "r.jsonl"
    await run(asked, [ONLY], ask=Answerer(), score=equal, records=RecordFile(path))
    other = await run(
        asked, [Condition("adapters", ("vl",))], ask=Answerer(), score=equal, records=RecordFile(path)
    )
    assert (other.reused, other.stale) == (0, 2)


async def test_ids_must_differ(tmp_path: Path) -> None:
    (one,) = examples(tmp_path, 1)
    with pytest.raises(ValueError, match="ids"):
        await run([one, one], [ONLY], ask=Answerer(), score=equal, records=RecordFile(tmp_path / "r.jsonl"))

"""Asks many questions at once, bounded, and goes on where an earlier run stopped.

What is already in the records file is not asked again if the same was sent (`fingerprint`) and the same models would
answer: before old records are believed, one question is asked again, and records of other versions are dropped.
Scores are made anew from the answers each time, so that a better scorer needs no new answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import grpc

from llm_server.evaluation.harness.client import Reply
from llm_server.evaluation.harness.example import Condition, Example, Record, fingerprint
from llm_server.evaluation.harness.record_file import RecordFile

# A gateway that refuses this many questions in a row is not going to answer the rest.
MAX_FAILURES_IN_A_ROW: Final = 20


@dataclass(frozen=True)
class Mark:
    """How good an answer is: `score` 0..1, and what was understood of it."""

    score: float
    read: str = ""


@dataclass(frozen=True)
class Failure:
    """A question without an answer, and why."""

    id: str
    condition: str
    reason: str


@dataclass
class Run:
    """What came of a run.

    Attributes:
        records: one for each question that was answered, in the order of the examples, condition by condition.
        failures: those that were not, or never asked because too many had failed.
        reused: records taken from the file.
        stale: records in the file that were not believed.
    """

    records: list[Record] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    reused: int = 0
    stale: int = 0


Ask = Callable[[bytes, str, Condition, int], Awaitable[Reply]]
"""(image, question, condition, max_new_tokens) -> reply."""
Score = Callable[[Example, str], Mark]
"""(example, answer) -> mark."""


async def run(
    examples: Sequence[Example],
    conditions: Sequence[Condition],
    *,
    ask: Ask,
    score: Score,
    records: RecordFile,
    concurrency: int = 4,
    advance: Callable[[int], None] = lambda done: None,
) -> Run:
    """Asks every example under every condition; `advance` is told of each that is done, reused ones included.

    Raises:
        ValueError: two examples share an id.
    """
    if len({example.id for example in examples}) != len(examples):
        raise ValueError("examples must have ids of their own")
    asked = _Run(ask, score, records, advance)
    wanted = [(example, condition) for condition in conditions for example in examples]
    with records:
        await asked.control(wanted)
        queue = iter(wanted)
        workers = (asked.work(queue) for _ in range(max(1, min(concurrency, len(wanted)))))
        await asyncio.gather(*workers)
    for example, condition in wanted:
        record = asked.answered.get((condition.name, example.id))
        if record is not None:
            mark = score(example, record.answer)
            record.score, record.read = mark.score, mark.read
            asked.result.records.append(record)
    return asked.result


class _Run:
    def __init__(self, ask: Ask, score: Score, records: RecordFile, advance: Callable[[int], None]) -> None:
        self._ask, self._score, self._records, self._advance = ask, score, records, advance
        self.answered: dict[tuple[str, str], Record] = {}
        self.result = Run()
        self._in_a_row = 0
        self._served: dict[str, dict[str, str]] = {}

    async def control(self, wanted: Iterable[tuple[Example, Condition]]) -> None:
        """Asks one old question of each condition again, to learn who answers now.

        Where that fails, nobody knows, and no old record of the condition is believed.
        """
        done: set[str] = set()
        for example, condition in wanted:
            key = (condition.name, example.id)
            if condition.name in done or key not in self._records.records:
                continue
            done.add(condition.name)
            record = await self._fresh(example, condition, None)
            if record is None:
                self.result.failures.pop()
            else:
                self._served[condition.name] = record.served
                self.answered[key] = record

    async def work(self, queue: Iterable[tuple[Example, Condition]]) -> None:
        """Takes questions until there are none."""
        for example, condition in queue:
            await self._one(example, condition)
            self._advance(1)

    async def _one(self, example: Example, condition: Condition) -> None:
        key = (condition.name, example.id)
        if key in self.answered:
            return
        if self._in_a_row >= MAX_FAILURES_IN_A_ROW:
            self._fail(example, condition, "not asked: too many questions before it had failed")
            return
        record = await self._fresh(example, condition, self._records.records.get(key))
        if record is not None:
            self.answered[key] = record

    async def _fresh(self, example: Example, condition: Condition, old: Record | None) -> Record | None:
        """The old record if it still holds, else a new one; None (and a failure) if there is no answer."""
        try:
            image = example.picture.read()
        except (OSError, ValueError) as error:
            self._fail(example, condition, f"cannot read {example.picture.name}: {error}")
            return None
        sent = fingerprint(example, condition, image)
        if old is not None:
            if old.fingerprint == sent and self._same_parts(condition, old):
                self.result.reused += 1
                return old
            self.result.stale += 1
        try:
            reply = await self._ask(image, example.question, condition, example.max_new_tokens)
        except grpc.aio.AioRpcError as error:
            self._in_a_row += 1
            self._fail(example, condition, f"{error.code().name}: {error.details()}")
            return None
        self._in_a_row = 0
        record = record_of(example, condition, sent, reply)
        mark = self._score(example, record.answer)
        record.score, record.read = mark.score, mark.read
        self._records.append(record)
        return record

    def _same_parts(self, condition: Condition, old: Record) -> bool:
        now = self._served.get(condition.name)
        return now is not None and all(
            now[part] == old.served[part] for part in now.keys() & old.served.keys()
        )

    def _fail(self, example: Example, condition: Condition, reason: str) -> None:
        self.result.failures.append(Failure(example.id, condition.name, reason))


def record_of(example: Example, condition: Condition, sent: str, reply: Reply) -> Record:
    """What is kept of a reply; not scored yet."""
    return Record(
        id=example.id,
        group=example.group,
        condition=condition.name,
        fingerprint=sent,
        question=example.question,
        picture=example.picture.name,
        expected=example.expected,
        verbalization=reply.verbalization,
        answer=reply.answer,
        objects=reply.objects(),
        served=reply.served(),
        experts=reply.experts(),
        timings=reply.timings(),
        generated_tokens=reply.done.usage.generated_tokens,
    )

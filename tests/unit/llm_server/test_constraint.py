"""Answers held to a form by the whole engine, with a tiny random model: what it would say by itself is noise."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_server.adapter_set import AdapterSet
from llm_server.constraint import CompiledConstraint
from llm_server.constraint_grammar import ConstraintCompiler
from llm_server.engine import Engine
from llm_server.faults import ConstraintFault
from llm_server.kv_cache import BlockPool
from llm_server.model_runner import TorchRunner
from llm_server.sampling import Sampler, SamplingParams
from llm_server.scheduler import Scheduler
from llm_server.sequence import (
    Event,
    FailedEvent,
    FinishedEvent,
    FinishReason,
    GenerationRequest,
    TokenEvent,
)
from llm_server.tiny_model import tiny_model
from llm_server.tokenizer import ChatTokenizer

VOCABULARY = 320
BLOCK = 4


class Rig:
    """Engines around one model; each runs by hand."""

    def __init__(self, chat: ChatTokenizer) -> None:
        self.chat = chat
        self.compiler = ConstraintCompiler(chat.token_bytes, chat.end_tokens, chat.encode_text)
        self._adapters = AdapterSet(tiny_model(VOCABULARY))
        self._bytes = chat.token_bytes + (b"",) * (VOCABULARY - len(chat.token_bytes))

    def run(
        self, *requests: GenerationRequest, blocks: int = 400, reuse: bool = False, rounds: int = 1
    ) -> list[list[Event]]:
        """All at once; ``rounds`` times with what was read remembered, the last one's events."""
        pool = BlockPool(blocks, BLOCK, reuse=reuse)
        scheduler = Scheduler(max_running=4, max_waiting=20, prefill_chunk=16, pool=pool)
        runner = TorchRunner(self._adapters, blocks=blocks, block_size=BLOCK, pack=False)
        engine = Engine(runner, self._bytes, scheduler)
        events: list[list[Event]] = []
        for _ in range(rounds):
            events = [[] for _ in requests]
            for one, sink in zip(requests, events, strict=True):
                engine.submit(one, sink.append)
            while engine.step():
                pass
        return events

    def request(
        self, prompt: str, constraint: CompiledConstraint | None, most: int = 300, **changes: Any
    ) -> GenerationRequest:
        sampling = SamplingParams(max_new_tokens=most, **changes.pop("sampling", {}))
        return GenerationRequest(
            prompt=tuple(self.chat.encode_text(prompt)),
            sampling=sampling,
            seed=changes.pop("seed", 0),
            end_tokens=self.chat.end_tokens,
            constraint=constraint,
            **changes,
        )

    def regex(self, text: str) -> CompiledConstraint:
        return self.compiler.compile("regex", text)

    def schema(self, schema: dict[str, Any]) -> CompiledConstraint:
        return self.compiler.compile("json_schema", json.dumps(schema))


@pytest.fixture(scope="module")
def rig(chat_tokenizer: ChatTokenizer) -> Rig:
    return Rig(chat_tokenizer)


def end(events: list[Event]) -> FinishedEvent:
    last = events[-1]
    assert isinstance(last, FinishedEvent), last
    return last


def tokens(events: list[Event]) -> list[int]:
    return [event.token for event in events if isinstance(event, TokenEvent)]


# A schema and whether a value satisfies it, made together.
Case = tuple[dict[str, Any], Callable[[Any], bool]]


def enums() -> st.SearchStrategy[Case]:
    values = st.lists(
        st.one_of(st.text(max_size=6), st.integers(-99, 99), st.none()),
        min_size=1,
        max_size=4,
        unique_by=repr,
    )
    return values.map(lambda known: ({"enum": known}, lambda value: any(_same(value, one) for one in known)))


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def integers() -> st.SearchStrategy[Case]:
    return st.tuples(st.integers(-500, 500), st.integers(0, 500)).map(
        lambda pair: (
            {"type": "integer", "minimum": pair[0], "maximum": pair[0] + pair[1]},
            lambda value: type(value) is int and pair[0] <= value <= pair[0] + pair[1],
        )
    )


def booleans() -> st.SearchStrategy[Case]:
    return st.just(({"type": "boolean"}, lambda value: type(value) is bool))


def arrays(inner: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    return st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(
        lambda parts: (
            {"type": "array", "items": parts[0][0], "minItems": parts[1], "maxItems": parts[1] + parts[2]},
            lambda value: (
                isinstance(value, list)
                and parts[1] <= len(value) <= parts[1] + parts[2]
                and all(parts[0][1](one) for one in value)
            ),
        )
    )


def objects(inner: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    def build(parts: tuple[dict[str, Case], bool]) -> Case:
        properties, required = parts
        schema = {
            "type": "object",
            "properties": {name: case[0] for name, case in properties.items()},
            "required": sorted(properties) if required else [],
            "additionalProperties": False,
        }

        def holds(value: Any) -> bool:
            return (
                isinstance(value, dict)
                and set(value) <= set(properties)
                and (not required or set(value) == set(properties))
                and all(properties[name][1](one) for name, one in value.items())
            )

        return schema, holds

    names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4)
    return st.tuples(st.dictionaries(names, inner, max_size=3), st.booleans()).map(build)


cases = st.recursive(
    st.one_of(enums(), integers(), booleans()),
    lambda inner: st.one_of(arrays(inner), objects(inner)),
    max_leaves=4,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases, seed=st.integers(0, 2**32), warm=st.booleans())
def test_every_finished_answer_satisfies_its_schema(rig: Rig, case: Case, seed: int, warm: bool) -> None:
    schema, holds = case
    sampling = {"temperature": 1.5, "top_p": 0.9} if warm else {}
    (events,) = rig.run(rig.request("How many?", rig.schema(schema), seed=seed, sampling=sampling))
    assert end(events).reason is FinishReason.END_OF_TURN
    assert holds(json.loads(end(events).text)), (schema, end(events).text)


EXPRESSIONS = [
    r"(yes|no)",
    r"[a-z]{3,9}( [a-z]{1,9}){0,3}\.",
    r"[0-9]{4}-[01][0-9]-[0-3][0-9]",
    r"(ä|✓|😀){2,5}",
    r" x{1,20} ",
    r"(a|b)?",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_matches_its_expression(rig: Rig, expression: str, temperature: float) -> None:
    sampling = {"temperature": temperature, "top_k": 0 if temperature else 1}
    for seed in range(4):
        (events,) = rig.run(rig.request("Say it.", rig.regex(expression), seed=seed, sampling=sampling))
        assert end(events).reason is FinishReason.END_OF_TURN
        assert re.fullmatch(expression, end(events).text)


def mixed(rig: Rig) -> list[GenerationRequest]:
    flag = {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "integer"}}}
    return [
        rig.request("How many people are in the picture?", None, most=40),
        rig.request("How many?", rig.regex("[a-z]{30}x?"), most=60),
        rig.request("user", rig.schema({**flag, "required": ["a", "b"]}), most=40),
        rig.request("system", None, most=30, sampling={"temperature": 1.0}, seed=7),
        rig.request("How?", rig.regex("[0-9]+"), most=25, sampling={"temperature": 1.2}, seed=3),
        rig.request("Who?", rig.regex("(no|yes)( sir| madam){4,9}"), most=80),
    ]


@pytest.fixture(scope="module")
def alone(rig: Rig) -> list[tuple[list[int], FinishReason, str]]:
    answers = [rig.run(one)[0] for one in mixed(rig)]
    return [(tokens(events), end(events).reason, end(events).text) for events in answers]


@pytest.mark.parametrize(
    "way",
    [{}, {"blocks": 24}, {"reuse": True, "rounds": 2}, {"blocks": 24, "reuse": True, "rounds": 2}],
    ids=["together", "preempted", "remembered", "both"],
)
def test_company_preemption_and_remembered_prefixes_change_nothing(
    rig: Rig, alone: list[tuple[list[int], FinishReason, str]], way: dict[str, Any]
) -> None:
    answers = rig.run(*mixed(rig), **way)
    assert [(tokens(one), end(one).reason, end(one).text) for one in answers] == alone
    if "blocks" in way:
        assert any(
            end(one).preemptions and request.constraint
            for one, request in zip(answers, mixed(rig), strict=True)
        )
    elif "reuse" in way:
        assert any(end(one).cached_tokens for one in answers)


def test_a_complete_answer_ends_at_once_even_where_there_is_no_more_room(rig: Rig) -> None:
    (events,) = rig.run(rig.request("Say it.", rig.regex("[a-b]{6}")))
    count = end(events).generated_tokens
    (again,) = rig.run(rig.request("Say it.", rig.regex("[a-b]{6}"), most=count))
    assert (end(again).reason, end(again).text) == (FinishReason.END_OF_TURN, end(events).text)
    (short,) = rig.run(rig.request("Say it.", rig.regex("[a-b]{6}"), most=count - 1))
    assert end(short).reason is FinishReason.LENGTH
    assert end(events).text.startswith(end(short).text)


def test_a_stop_string_still_ends_an_answer(rig: Rig) -> None:
    (events,) = rig.run(rig.request("Say it.", rig.regex("x{2}yz{9}"), stop=("yz",)))
    assert (end(events).reason, end(events).text) == (FinishReason.STOP_STRING, "xx")


def test_a_repetition_penalty_cannot_break_the_form(rig: Rig) -> None:
    sampling = {"repetition_penalty": 50.0, "temperature": 2.0}
    (events,) = rig.run(rig.request("Say it.", rig.regex("(ab){20}"), sampling=sampling))
    assert end(events).text == "ab" * 20


def test_probabilities_are_those_of_the_model_left_alone(rig: Rig) -> None:
    (free,) = rig.run(rig.request("Say it.", None, most=1, logprobs=3))
    (held,) = rig.run(rig.request("Say it.", rig.regex("[0-9]{3}"), most=1, logprobs=3))
    (one,), (other,) = (
        [event for event in events if isinstance(event, TokenEvent)] for events in (free, held)
    )
    assert one.logprobs is not None
    assert other.logprobs is not None
    assert one.logprobs.likeliest == other.logprobs.likeliest
    assert other.logprobs.chosen < one.logprobs.chosen


class Breaking:
    """A form that turns out to be too much after some tokens."""

    def __init__(self, inner: CompiledConstraint, after: int) -> None:
        self._inner = inner
        self._after = after

    def start(self, end_tokens: Any) -> Any:
        held, left = self._inner.start(end_tokens), self._after

        class Held:
            def mask(self, logits: Any) -> Any:
                return held.mask(logits)

            def advance(self, token: int) -> bool:
                nonlocal left
                left -= 1
                if left < 0:
                    raise ConstraintFault("too many states")
                return held.advance(token)

        return Held()


def test_a_form_that_is_too_much_fails_its_own_answer_alone(rig: Rig) -> None:
    free = rig.request("How many people are in the picture?", None, most=20)
    broken = rig.request("Say it.", Breaking(rig.regex("a{50}"), 3))
    alone, together = rig.run(free)[0], rig.run(free, broken)
    assert tokens(together[0]) == tokens(alone)
    assert len(tokens(together[1])) == 3
    last = together[1][-1]
    assert isinstance(last, FailedEvent)
    assert isinstance(last.error, ConstraintFault)


class Always:
    """A random stream that stays at its greatest number."""

    def random(self) -> float:
        return float(np.nextafter(1.0, 0.0))


def test_a_draw_at_the_very_end_takes_no_forbidden_token() -> None:
    sampler = Sampler(SamplingParams(temperature=1.0), seed=0, prompt=())
    sampler._random = Always()  # type: ignore[assignment]
    for size in range(1, 60):
        logits = np.full(64, -np.inf, np.float32)
        logits[:size] = np.linspace(0.1, 1.3, size, dtype=np.float32)
        assert np.isfinite(logits[sampler.choose(logits)])

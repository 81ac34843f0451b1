"""A prompt whose beginning is remembered is read in the very chunks of one that is read from the start."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_server.chat_prompting import ChatPrompting, CrayonPlace
from llm_server.detokenizer import Detokenizer
from llm_server.kv_cache import BlockPool
from llm_server.sampling import Sampler, SamplingParams
from llm_server.scheduler import Scheduler
from llm_server.sequence import GenerationRequest, Sequence, State
from llm_server.stop import StopMatcher
from llm_server.tiny_model import tiny_tokenizer
from llm_server.tokenizer import ChatTokenizer
from polysight.llm.v1 import generation_pb2 as pb

PARAMS = SamplingParams(max_new_tokens=30)


def sequence(number: int, prompt: list[int], shared: int) -> Sequence:
    request = GenerationRequest(tuple(prompt), PARAMS, 0, frozenset(), shared=shared)
    return Sequence(
        number=number,
        request=request,
        max_length=2000,
        sampler=Sampler(PARAMS, seed=0, prompt=request.text),
        detokenizer=Detokenizer([b""]),
        stopper=StopMatcher(()),
        sink=lambda event: None,
        arrived_at=0.0,
    )


def read(scheduler: Scheduler, one: Sequence) -> list[tuple[int, int]]:
    """The chunks in which ``one`` is read, alone; it is over then."""
    scheduler.add(one)
    chunks = []
    while one.state in (State.WAITING, State.PREFILLING):
        for chunk in scheduler.plan(0.0).prefill:
            chunks.append((chunk.start, chunk.end))
            table = one.branches[0].table
            assert table.computed == chunk.start
            table.computed = chunk.end
            scheduler.pool.publish(table, one.written(one.branches[0]))
            if chunk.last:
                one.state = State.DECODING
    scheduler.end(one, 1.0)
    return chunks


@settings(deadline=None)
@given(
    shared=st.integers(0, 90),
    common=st.integers(0, 90),
    lengths=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    block=st.sampled_from((1, 4, 16)),
    chunk=st.integers(1, 40),
)
def test_the_chunks_do_not_depend_on_what_is_remembered(
    shared: int, common: int, lengths: tuple[int, int], block: int, chunk: int
) -> None:
    def scheduler() -> Scheduler:
        pool = BlockPool(400, block)
        return Scheduler(max_running=2, max_waiting=2, prefill_chunk=chunk, pool=pool)

    # The second question begins as the first one does: that is not taken from it. Another picture begins alike.
    first, second = ([*range(shared), *range(500, 500 + length)] for length in lengths)
    other = [*range(common), *range(900, 940)]
    warm_one = scheduler()
    read(warm_one, sequence(0, other, common + 20))
    for before in (sequence(1, first, shared), sequence(2, second, shared)):
        warm, cold = read(warm_one, before), read(scheduler(), sequence(0, [*before.request.prompt], shared))
        assert (cold[0][0], cold[-1][1]) == (0, len(before.request.prompt))
        assert [end for _, end in cold[:-1]] == [start for start, _ in cold[1:]]
        if shared:
            assert warm == cold[len(cold) - len(warm) :]
            assert all(end - start <= chunk for start, end in cold)
    if shared:
        assert warm[0][0] == shared - shared % block


def test_what_is_short_enough_is_read_in_one_step() -> None:
    scheduler = Scheduler(max_running=2, max_waiting=2, prefill_chunk=32, pool=BlockPool(40, 4))
    scheduler.add(sequence(0, [*range(30)], 22))
    assert [(one.start, one.end, one.last) for one in scheduler.plan(0.0).prefill] == [
        (0, 20, False),
        (20, 30, True),
    ]


def conversation(*texts: str, seen: str = "", maps: bool = False) -> pb.GenerateRequest:
    request = pb.GenerateRequest(verbalized_text=seen)
    for at, text in enumerate(texts):
        request.turns.add(role=pb.ROLE_ASSISTANT if at % 2 else pb.ROLE_USER, text=text)
    if maps:
        request.crayon.CopyFrom(
            pb.CrayonMaps(height=2, width=2, class_indices=bytes(4), instance_ordinals=bytes(4))
        )
    return request


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("before", [(), ("Is there a dog?", "Yes.")])
@pytest.mark.parametrize("seen", ["", "The image includes a dog."])
def test_another_question_shares_what_stands_before_it(
    seen: str, before: tuple[str, ...], maps: bool
) -> None:
    place = CrayonPlace(rows=2, columns=2, start=3, placeholder=0)
    prompting = ChatPrompting(ChatTokenizer(tiny_tokenizer()), place)
    dog, zoo = (
        prompting.prepare(conversation(*before, text, seen=seen, maps=maps), limit=1000)
        for text in ("Dogs?", "zebras, how many?")
    )
    assert dog.shared == zoo.shared > 0
    assert dog.tokens[: dog.shared] == zoo.tokens[: zoo.shared]
    assert dog.tokens[dog.shared] != zoo.tokens[zoo.shared]
    assert (dog.conditioning is not None) == maps

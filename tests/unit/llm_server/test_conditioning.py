"""Which image positions a part of a prompt holds, and what a prompt that cannot be divided means to the scheduler."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from llm_server.conditioning import Conditioning
from llm_server.detokenizer import Detokenizer
from llm_server.feature_cache import FeatureCache
from llm_server.kv_cache import BlockPool
from llm_server.sampling import Sampler, SamplingParams
from llm_server.scheduler import Scheduler
from llm_server.sequence import GenerationRequest, Sequence, State
from llm_server.stop import StopMatcher


@given(st.integers(0, 20), st.integers(1, 20), st.integers(0, 50), st.integers(1, 20))
def test_the_part_of_a_picture_in_a_chunk(start: int, count: int, at: int, length: int) -> None:
    seen = Conditioning(digest=b"", image_start=start, image_tokens=count)
    first, after = seen.image_part(at, at + length)
    inside = [p - start for p in range(at, at + length) if start <= p < start + count]
    assert list(range(first, after)) == inside


def sequence(number: int, prompt: int, *, whole: bool, generated: int = 0) -> Sequence:
    params = SamplingParams(max_new_tokens=30)
    request = GenerationRequest(
        prompt=tuple(range(prompt)),
        sampling=params,
        seed=0,
        end_tokens=frozenset(),
        conditioning=Conditioning(digest=b"a", image_start=2, image_tokens=3, whole=whole),
    )
    one = Sequence(
        number=number,
        request=request,
        max_length=200,
        sampler=Sampler(params, seed=0, prompt=request.text),
        detokenizer=Detokenizer([b""]),
        stopper=StopMatcher(()),
        sink=lambda event: None,
        arrived_at=0.0,
    )
    one.generated = [1] * generated
    return one


def test_an_undivided_prompt_is_read_in_one_pass_and_what_followed_it_in_another() -> None:
    pool = BlockPool(64, 4)
    scheduler = Scheduler(max_running=4, max_waiting=4, prefill_chunk=8, pool=pool)
    again = sequence(0, 21, whole=True, generated=5)
    scheduler.add(again)
    scheduler.add(sequence(1, 6, whole=False))
    plan = scheduler.plan(0.0)
    # Nothing else of that step is read, however long the chunk is.
    assert [(chunk.start, chunk.end, chunk.last) for chunk in plan.prefill] == [(0, 21, False)]
    again.branches[0].table.computed = 21
    pool.publish(again.branches[0].table, again.written(again.branches[0]))
    plan = scheduler.plan(0.0)
    assert [(chunk.start, chunk.end, chunk.last) for chunk in plan.prefill] == [
        (21, 24, False),
        (24, 26, True),
    ]
    scheduler.end(again, 1.0)
    assert again.state is State.ENDED
    # Its mixers saw all of it: what it left is no beginning of anything.
    assert pool.remembered == 0


def test_only_the_same_picture_shares_what_was_read() -> None:
    roots = {sequence(0, 6, whole=False).root, sequence(1, 6, whole=False).root}
    assert len(roots) == 1
    other = GenerationRequest((1, 2), SamplingParams(), 0, frozenset())
    assert sequence(2, 6, whole=True).root is None
    assert other.text == (1, 2)
    assert sequence(3, 6, whole=False).request.text == (0, 1, 5)


def test_features_are_kept_within_bytes() -> None:
    cache = FeatureCache(3 * 40)
    made: list[str] = []

    def get(name: str, size: int = 10) -> torch.Tensor:
        def compute() -> torch.Tensor:
            made.append(name)
            return torch.zeros(size)

        return cache.get("image", name.encode(), compute)

    for name in ("a", "b", "c", "a", "d", "b"):
        get(name)
    assert made == ["a", "b", "c", "d", "b"]  # b went when d came: a had been asked for again
    assert (cache.bytes, cache.hits) == (120, 1)
    get("large", 100)
    assert cache.bytes == 120
    assert cache.get("other", b"a", lambda: torch.ones(1)).item() == 1

"""Beam search against transformers' own, on the tiny model and through the whole engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_server.adapter_set import AdapterSet
from llm_server.beam_search import BeamSearch
from llm_server.engine import Engine
from llm_server.kv_cache import BlockPool
from llm_server.model_runner import TorchRunner
from llm_server.sampling import SamplingParams
from llm_server.scheduler import Scheduler
from llm_server.sequence import Event, GenerationRequest, TokenEvent
from llm_server.tiny_model import tiny_model

VOCABULARY = 320


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("width", [2, 3])
def test_it_finds_what_transformers_finds(seed: int, width: int) -> None:
    model: Any = tiny_model(VOCABULARY, seed=seed)
    prompt = [int(token) for token in np.random.default_rng(seed).integers(3, VOCABULARY, 9)]
    # Ends that come up: a random model says a few tokens again and again.
    end = int(model(input_ids=torch.tensor([prompt])).logits[0, -1].topk(7).indices[-1])
    with torch.inference_mode():
        found = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            num_beams=width,
            do_sample=False,
            max_new_tokens=10,
            eos_token_id=end,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
    pool = BlockPool(40, 4)
    engine = Engine(
        TorchRunner(AdapterSet(model), blocks=40, block_size=4),
        [b"x"] * VOCABULARY,
        Scheduler(max_running=width, max_waiting=1, prefill_chunk=4, pool=pool),
    )
    events: list[Event] = []
    engine.submit(
        GenerationRequest(
            prompt=tuple(prompt),
            sampling=SamplingParams(max_new_tokens=10, beams=width),
            seed=0,
            end_tokens=frozenset({end}),
        ),
        events.append,
    )
    while engine.step():
        pass
    said = [event.token for event in events if isinstance(event, TokenEvent)]
    assert said == [token for token in found if token != end]
    assert pool.in_use == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 4))
def test_wide_enough_it_is_exhaustive(seed: int, vocabulary: int, most: int) -> None:
    """With a beam for every text there is, the answer is the likeliest text of that length."""
    random = np.random.default_rng(seed)
    table: dict[tuple[int, ...], Any] = {(): random.normal(size=vocabulary).astype(np.float32)}
    search = BeamSearch(vocabulary**most, frozenset(), most)

    def logits(text: tuple[int, ...]) -> Any:
        return table.setdefault(text, random.normal(size=vocabulary).astype(np.float32))

    while search.advance(np.stack([logits(text) for text in search.tokens])):
        pass

    def total(text: tuple[int, ...]) -> float:
        parts = [logits(text[:place]).astype(np.float64) for place in range(len(text))]
        return sum(
            float(row[token] - np.log(np.exp(row).sum())) for row, token in zip(parts, text, strict=True)
        )

    everything = [()]
    for _ in range(most):
        everything = [(*text, token) for text in everything for token in range(vocabulary)]  # type: ignore[misc]
    assert total(search.best()) == pytest.approx(max(total(text) for text in everything))


def test_beams_without_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        BeamSearch(2, frozenset(), 3).advance(np.array([[np.nan, 1.0]], np.float32))

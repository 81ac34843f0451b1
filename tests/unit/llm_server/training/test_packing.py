"""A packed branch gets the logits it would get alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_server.prompts.chatml import END, Turn, first_user_text, render
from llm_server.tiny_model import tiny_model, tiny_tokenizer
from llm_server.training.packed_attention import additive
from llm_server.training.packing import IGNORED, attention_mask, collate, pack, split_prompt

WORDS = "The image includes (#1 person) [0.00, 0.16, 0.29, 0.88]."
PAIRS = [("How many people?", "1."), ("Is there a dog in the picture?", "No."), ("What is it?", "A person.")]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def test_packed_logits_equal_those_of_each_question_alone(tokenizer: Any) -> None:
    model = tiny_model(320)
    packed = pack(tokenizer, WORDS, PAIRS, max_tokens=500)
    filler = pack(tokenizer, WORDS * 2, PAIRS, max_tokens=500)
    batch = collate([packed, filler], pad_id=0)
    with torch.no_grad():
        together = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=additive(batch.mask, torch.float32),
        ).logits[0]
        for number, (question, answer) in enumerate(PAIRS, start=1):
            prompt = render([Turn("user", first_user_text(WORDS, question))])
            alone = ids(tokenizer, prompt + answer + END)
            logits = model(input_ids=torch.tensor([alone])).logits[0]
            branch = [i for i, b in enumerate(packed.branches) if b == number]
            assert [packed.ids[i] for i in branch] == alone[-len(branch) :]
            torch.testing.assert_close(together[branch], logits[-len(branch) :], rtol=1e-4, atol=1e-5)


def test_targets_are_the_answers_and_nothing_else(tokenizer: Any) -> None:
    packed = pack(tokenizer, WORDS, PAIRS, max_tokens=500)
    learnt = [t for t in packed.targets if t != IGNORED]
    assert learnt == [token for _, answer in PAIRS for token in ids(tokenizer, answer + END)]
    following = [packed.ids[i + 1] for i, t in enumerate(packed.targets) if t != IGNORED]
    assert learnt == following


def test_a_token_weighs_less_in_a_longer_answer(tokenizer: Any) -> None:
    packed = pack(tokenizer, WORDS, PAIRS, max_tokens=500)
    for number, (_, answer) in enumerate(PAIRS, start=1):
        reply = ids(tokenizer, answer + END)
        inside = [
            (t, w)
            for t, w, b in zip(packed.targets, packed.weights, packed.branches, strict=True)
            if b == number
        ]
        assert {w for t, w in inside if t != IGNORED} == {len(reply) ** -0.5}
        assert {w for t, w in inside if t == IGNORED} == {0.0}


@given(st.text(alphabet="ab .,", max_size=20), st.sampled_from([q for q, _ in PAIRS]))
@settings(max_examples=40, deadline=None)
def test_the_cut_prompt_is_the_served_prompt(words: str, question: str) -> None:
    prefix, rest = split_prompt(words, question)
    assert prefix + rest == render([Turn("user", first_user_text(words, question))])
    assert rest.lstrip(" ").startswith(question)


@given(
    st.lists(st.integers(min_value=1, max_value=4), min_size=1, max_size=6),
    st.integers(min_value=0, max_value=5),
)
@settings(max_examples=40, deadline=None)
def test_who_attends_to_whom(lengths: list[int], padding: int) -> None:
    branches = [number for number, length in enumerate(lengths) for _ in range(length)] + [-1] * padding
    mask = attention_mask(torch.tensor([branches]))[0, 0]
    for i, mine in enumerate(branches):
        for j, other in enumerate(branches):
            expected = j <= i and (mine == other or (other == 0 and mine >= 0))
            assert bool(mask[i, j]) == expected
    assert mask.any(dim=1).all()


def test_what_does_not_fit_is_left_out_and_nothing_at_all_is_an_error(tokenizer: Any) -> None:
    whole = pack(tokenizer, WORDS, PAIRS, max_tokens=500)
    shorter = pack(tokenizer, WORDS, PAIRS, max_tokens=len(whole) - 1)
    assert len(shorter) < len(whole)
    with pytest.raises(ValueError, match="no question fits"):
        pack(tokenizer, WORDS, PAIRS, max_tokens=10)
    with pytest.raises(ValueError, match="no question"):
        pack(tokenizer, WORDS, [], max_tokens=500)

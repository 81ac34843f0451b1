"""A picture in a packed sequence changes positions and nothing else; a conversation is the served prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_server.prompts.chatml import END, Turn, first_user_text, render
from llm_server.tiny_model import tiny_tokenizer
from llm_server.training.image_packing import (
    collate_images,
    image_place,
    pack_conversation,
    with_image,
    without_image,
)
from llm_server.training.packing import IGNORED, pack, split_prompt
from llm_server.training.scene_maps import Maps

TOKENIZER: Any = tiny_tokenizer()
WORDS = "The image includes (#1 person) [0.00, 0.16, 0.29, 0.88]."
PAIRS = [("How many people?", "1."), ("Is there a dog in the picture?", "No.")]
MAPS = Maps(np.arange(6, dtype=np.uint8).reshape(2, 3), np.ones((2, 3), np.uint8))


def text(ids: Any) -> str:
    return str(TOKENIZER.decode(list(ids), skip_special_tokens=False))


@given(
    st.sampled_from(["", WORDS]), st.integers(min_value=1, max_value=5), st.integers(min_value=1, max_value=5)
)
@settings(max_examples=20, deadline=None)
def test_image_positions_stand_at_the_head_of_the_user_turn(words: str, rows: int, columns: int) -> None:
    maps = Maps(np.zeros((rows, columns), np.uint8), np.zeros((rows, columns), np.uint8))
    plain = pack(TOKENIZER, words, PAIRS, max_tokens=500)
    place, n = image_place(TOKENIZER), rows * columns
    packed = with_image(plain, maps, place).packed
    assert text(packed.ids[:place]) == split_prompt("", "?")[0]
    assert packed.positions[: place + n] == tuple(range(place + n))
    assert set(packed.branches[: place + n]) == {0}
    assert [p for p in packed.targets if p != IGNORED] == [p for p in plain.targets if p != IGNORED]
    for branch in (1, 2):
        own = [
            (i, p)
            for i, p, b in zip(packed.ids, packed.positions, packed.branches, strict=True)
            if b == branch
        ]
        was = [
            (i, p + n)
            for i, p, b in zip(plain.ids, plain.positions, plain.branches, strict=True)
            if b == branch
        ]
        assert own == was
    assert without_image(with_image(plain, maps, place)).packed == plain


def test_without_maps_nothing_is_put_in_and_a_branch_holds_no_picture() -> None:
    plain = pack(TOKENIZER, WORDS, PAIRS, max_tokens=500)
    assert with_image(plain, None, 3).packed is plain
    assert without_image(with_image(plain, None, 3)).packed is plain
    with pytest.raises(ValueError, match="prefix"):
        with_image(plain, MAPS, len(plain))


def test_a_batch_mixes_sequences_with_and_without_a_picture() -> None:
    place = image_place(TOKENIZER)
    short = with_image(pack(TOKENIZER, "", PAIRS[:1], max_tokens=500), MAPS, place)
    bare = with_image(pack(TOKENIZER, WORDS, PAIRS, max_tokens=500), None, place)
    batch = collate_images([bare, short], pad_id=1)
    assert batch.with_crayon.tolist() == [False, True]
    assert batch.image.sum(1).tolist() == [0, 6]
    assert batch.image[1].nonzero()[:, 0].tolist() == list(range(place, place + 6))
    assert batch.classes.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert batch.numbers.dtype == torch.int64
    assert not len(collate_images([bare], pad_id=1).classes)


TURNS = [("What is it?", "A bus."), ("Is it red?", "Yes, it is."), ("How many?", "1.")]


def test_a_conversation_reads_as_it_is_served_and_learns_every_answer() -> None:
    packed = pack_conversation(TOKENIZER, WORDS, TURNS, max_tokens=900)
    said: list[Turn] = []
    for number, (question, answer) in enumerate(TURNS):
        said.append(Turn("user", first_user_text(WORDS, question) if not number else question))
        if number < len(TURNS) - 1:
            said.append(Turn("assistant", answer))
    assert text(packed.ids) == render(said) + TURNS[-1][1] + END
    learnt = [t for t in packed.targets if t != IGNORED]
    assert text(learnt) == "".join(answer + END for _, answer in TURNS)
    following = [packed.ids[i + 1] for i, t in enumerate(packed.targets) if t != IGNORED]
    assert learnt == following
    assert packed.positions == tuple(range(len(packed)))
    assert set(packed.branches) == {0, 1}
    assert all((w > 0) == (t != IGNORED) for w, t in zip(packed.weights, packed.targets, strict=True))


def test_turns_that_do_not_fit_are_left_out_from_the_first_on() -> None:
    whole = pack_conversation(TOKENIZER, WORDS, TURNS, max_tokens=900)
    cut = pack_conversation(TOKENIZER, WORDS, TURNS, max_tokens=len(whole) - 1)
    assert cut.ids == pack_conversation(TOKENIZER, WORDS, TURNS[:2], max_tokens=900).ids
    with pytest.raises(ValueError, match="no turn"):
        pack_conversation(TOKENIZER, WORDS, [], max_tokens=900)
    with pytest.raises(ValueError, match="fits"):
        pack_conversation(TOKENIZER, WORDS, TURNS, max_tokens=20)

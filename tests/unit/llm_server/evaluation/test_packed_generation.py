"""Packed answers are those of asking each question alone."""

from __future__ import annotations

from typing import Any

import torch

from llm_server.evaluation.packed_generation import answer_scenes
from llm_server.evaluation.scenes import KINDS, evaluate_with_and_without, heldout
from llm_server.prompts.chatml import Turn, first_user_text, render
from llm_server.tiny_model import tiny_model, tiny_tokenizer
from llm_server.training.packing import pack
from llm_server.training.recipe import adapted
from llm_server.training.scenes import Scene, scenes

PROMPTS = [
    ("The image includes (#1 person) [0.00, 0.16].", ["How many?", "Is there a dog in the picture?"]),
    ("None.", ["What is it?", "How many people are in the picture?"]),
    ("The image includes (#1 person) [0.00, 0.16, 0.29, 0.88], (#2 person) [0.1].", ["Who?", "What?"]),
]


def alone(model: Any, tokenizer: Any, words: str, question: str, n: int) -> str:
    ids = tokenizer.encode(render([Turn("user", first_user_text(words, question))]), add_special_tokens=False)
    said: list[int] = []
    for _ in range(n):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids + said])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        said.append(token)
    return str(tokenizer.decode(said)).strip()


def test_greedy_answers_equal_those_of_one_question_at_a_time() -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(320, seed=11)
    done: list[int] = []
    found = answer_scenes(model, tokenizer, PROMPTS, max_new_tokens=12, batch=2, advance=done.append)
    expected = [[alone(model, tokenizer, words, q, 12) for q in questions] for words, questions in PROMPTS]
    assert found == expected
    assert any(answer for answers in found for answer in answers)
    assert sum(done) == len(PROMPTS)


def words(scene: Scene) -> str:
    return f"{len(scene.objects)} objects."


def test_the_report_has_every_kind_with_and_without_adapters() -> None:
    model = adapted(tiny_model(320), rank=2, alpha=4)
    report, scores = evaluate_with_and_without(model, tiny_tokenizer(), seed=1, n=3, verbalize=words)
    assert {*KINDS, "base", "n", "seed", "seconds"} == set(report)
    assert set(report["base"]) == set(KINDS)
    assert scores.total == dict.fromkeys(KINDS, 3)
    assert all(0 <= report[kind] <= 1 for kind in KINDS)


def test_held_out_scenes_are_never_training_scenes() -> None:
    items = heldout(12345, 40)
    assert [i.questions for i in items] == [i.questions for i in heldout(12345, 40)]
    assert {i.scene for i in items}.isdisjoint(scenes("train", 12345, 400))
    for item in items:
        assert [q.kind for q in item.questions] == list(KINDS)


def test_a_packed_question_is_a_packed_prompt() -> None:
    """Training's packing and evaluation's agree about where a question begins."""
    tokenizer = tiny_tokenizer()
    from llm_server.evaluation.packed_generation import prompt_rows

    text, questions = PROMPTS[0]
    ids, positions, branches, last = prompt_rows(tokenizer, text, questions)
    packed = pack(tokenizer, text, [(q, "") for q in questions], max_tokens=400)
    prefix = [i for i, b in zip(packed.ids, packed.branches, strict=True) if b == 0]
    assert ids[: len(prefix)] == prefix
    assert [positions[i] for i in last] == [branches.count(0) + branches.count(k) - 1 for k in (1, 2)]

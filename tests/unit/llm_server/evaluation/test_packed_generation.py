"""Packed answers are those of asking each question alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from llm_server.evaluation.crayon_reading import CrayonReader
from llm_server.evaluation.packed_generation import Seen, answer_scenes
from llm_server.models.crayon import CrayonSwitches
from llm_server.models.crayon_hooks import CrayonHooks, branch_outputs, crayon_rows, put_tokens
from llm_server.models.crayon_prompt import CrayonPrompt, CrayonShape
from llm_server.prompts.chatml import Turn, first_user_text, render
from llm_server.tiny_model import tiny_model, tiny_tokenizer
from llm_server.training.image_packing import collate_images, image_place, with_image
from llm_server.training.packing import pack
from llm_server.training.scene_maps import Maps

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


def test_scenes_may_have_different_numbers_of_questions_and_answers_limits_of_their_own() -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(320, seed=11)
    prompts = [
        (PROMPTS[0][0], [*PROMPTS[0][1], "Who is there?", "What does it say?"]),
        (PROMPTS[1][0], []),
        (PROMPTS[2][0], ["Who?"]),
    ]
    limits = [[3, 25, 1, 9], [], [14]]
    done: list[int] = []
    found = answer_scenes(
        model, tokenizer, prompts, max_new_tokens=5, batch=2, limits=limits, advance=done.append
    )
    assert found == [
        [alone(model, tokenizer, words, q, limit) for q, limit in zip(questions, own, strict=True)]
        for (words, questions), own in zip(prompts, limits, strict=True)
    ]
    assert sum(done) == len(prompts)


def test_crayon_maps_are_read_as_in_training() -> None:
    """The answers to packed questions about words and maps are those of one sequence with the features at its head."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(320, seed=11)
    shape = CrayonShape(rows=2, columns=3, width=8, hidden=32, rank=2, alpha=40.0)
    torch.manual_seed(5)
    crayon = CrayonPrompt(shape, branch_outputs(model, shape.targets)).eval()
    for parameter in crayon.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    random = np.random.default_rng(1)
    maps = [
        Maps(random.integers(0, 134, (2, 3), dtype=np.uint8), random.integers(0, 21, (2, 3), dtype=np.uint8))
        for _ in PROMPTS
    ]

    def said(switches: CrayonSwitches) -> list[list[str]]:
        reader = CrayonReader(model, crayon, switches)
        return answer_scenes(model, tokenizer, PROMPTS, max_new_tokens=8, batch=2, seen=Seen(reader, maps))

    def by_training(words: str, question: str, one: Maps) -> str:
        ids: list[int] = []
        hooks = CrayonHooks(model, crayon)
        for _ in range(8):
            packed = pack(tokenizer, words, [(question, "")], max_tokens=400)
            cut = len(packed) - 1  # without the end of the empty answer
            image = with_image(packed, one, image_place(tokenizer))
            batch = collate_images([image], pad_id=tokenizer.eos_token_id)
            rows = crayon_rows(batch.image, crayon.features(batch.classes, batch.numbers))
            with torch.no_grad(), hooks.applied(rows):
                own = torch.tensor([[*image.packed.ids[: cut + 6], *ids]])
                embeddings = put_tokens(model.get_input_embeddings()(own), rows)
                token = int(model(inputs_embeds=embeddings).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            ids.append(token)
        return str(tokenizer.decode(ids)).strip()

    both = said(CrayonSwitches())
    expected = [
        [by_training(words, q, one) for q in questions]
        for (words, questions), one in zip(PROMPTS, maps, strict=True)
    ]
    assert both == expected
    assert both != said(CrayonSwitches(numbering=False))
    assert said(CrayonSwitches(False, False)) == answer_scenes(
        model, tokenizer, PROMPTS, max_new_tokens=8, batch=2
    )


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

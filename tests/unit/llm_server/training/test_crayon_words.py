"""A crayon prompt that begins at words: near to them, with and without numbers, and with its branches untouched."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm_server.models.crayon import CrayonSwitches
from llm_server.models.crayon_prompt import CrayonPrompt, CrayonShape
from llm_server.tiny_model import tiny_model, tiny_tokenizer
from llm_server.training.crayon_words import begin_at_words, names_by_id

NAMES = ["dog", "cat", "red bus"]
SHAPE = CrayonShape(rows=3, columns=3, width=24, hidden=32, rank=2, alpha=2.0, classes=4, numbers=3)


@pytest.fixture(scope="module")
def embedding() -> torch.Tensor:
    model: Any = tiny_model(320)
    weight: torch.Tensor = model.get_input_embeddings().weight.detach()
    return weight[:, : SHAPE.hidden].contiguous()


def test_a_cell_begins_near_the_words_for_its_class(embedding: torch.Tensor) -> None:
    torch.manual_seed(0)
    crayon = CrayonPrompt(SHAPE, {"layers.0.q_proj": 8}).requires_grad_(False)
    branch = crayon.branch("layers.0.q_proj").A.clone()
    tokenizer = tiny_tokenizer()
    left = begin_at_words(crayon, embedding, tokenizer, NAMES, seed=0, steps=300)
    assert left < 0.1
    assert torch.equal(crayon.branch("layers.0.q_proj").A, branch)
    assert not any(parameter.requires_grad for parameter in crayon.parameters())
    words = torch.stack(
        [embedding[tokenizer.encode(f" {name}", add_special_tokens=False)].mean(0) for name in NAMES]
    )
    for switches in (CrayonSwitches(), CrayonSwitches(numbering=False)):
        # Label id i has row i + 1; number 0 says nothing.
        classes = torch.arange(1, 4)[:, None].expand(3, 9)
        features = crayon.features(classes, torch.zeros_like(classes), switches=switches)
        assert features is not None
        near = torch.cdist(features.mean(1), words).argmin(1)
        assert near.tolist() == [0, 1, 2]


def test_the_same_seed_begins_alike(embedding: torch.Tensor) -> None:
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        crayon = CrayonPrompt(SHAPE, {"layers.0.q_proj": 8})
        begin_at_words(crayon, embedding, tiny_tokenizer(), NAMES, seed=1, steps=5)
        made.append(crayon.semantic.weight.detach().clone())
    assert torch.equal(*made)


def test_names_have_to_fit_the_table(embedding: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="2 names do not fit"):
        begin_at_words(
            CrayonPrompt(SHAPE, {"layers.0.q_proj": 8}), embedding, tiny_tokenizer(), NAMES[:2], seed=0
        )
    assert names_by_id({"wall": (1, 2), "dog": (0,)}) == ["dog", "wall", "wall"]
    with pytest.raises(KeyError):
        names_by_id({"wall": (2,), "dog": (0,)})

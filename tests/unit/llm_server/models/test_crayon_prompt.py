"""The crayon prompt: what is switched off changes the answer, what does not fit is refused, decode pays nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_server.models.collavo import Collavo
from llm_server.models.crayon import CrayonIndexError, CrayonMapError, CrayonSwitches
from llm_server.models.decoding import DecodingSession, GrowingCache
from llm_server.models.image_rows import image_rows
from llm_server.models.moai import Moai
from llm_server.models.partial_lora import PartialLoraLinear
from llm_server.models.prompt_batch import PromptBatch, prompt_batch
from llm_server.models.vision_language import VisionLanguageModel

CLASSES = (torch.arange(25) % 7)[None]
NUMBERS = (torch.arange(25) % 3)[None]


def batch(*prompts: list[int]) -> PromptBatch:
    return prompt_batch(prompts, image_id=480, image_tokens=25, pad_id=2)


def pixels(rows: int = 1) -> Tensor:
    return torch.randn(rows, 3, 70, 70, generator=torch.Generator().manual_seed(3))


@torch.inference_mode()
def last(model: Collavo, switches: CrayonSwitches | None) -> Tensor:
    crayon = None if switches is None else model.crayon_features(CLASSES, NUMBERS, switches=switches)
    return model.last_logits(model.read(batch([1, 5, 480, 8]), model.image_features(pixels()), crayon=crayon))


def test_each_switch_changes_the_answer_and_all_off_is_partial_lora_alone(collavo: Collavo) -> None:
    answers = [
        last(collavo, CrayonSwitches(semantic, numbering))
        for semantic in (True, False)
        for numbering in (True, False)
    ]
    for one in range(4):
        for other in range(one):
            assert float((answers[one] - answers[other]).abs().max()) > 0.05
    assert torch.equal(answers[3], last(collavo, None))


def test_a_number_beyond_the_table_is_unknown_in_serving_and_an_error_in_reference(collavo: Collavo) -> None:
    beyond = NUMBERS.clone()
    beyond[0, 4] = 21
    unknown = NUMBERS.clone()
    unknown[0, 4] = 0
    served, known = collavo.crayon_features(CLASSES, beyond), collavo.crayon_features(CLASSES, unknown)
    assert served is not None
    assert known is not None
    assert torch.equal(served, known)
    with pytest.raises(CrayonIndexError, match="21"):
        collavo.crayon_features(CLASSES, beyond, unknown_beyond=False)


@pytest.mark.parametrize(
    ("classes", "numbers", "error"),
    [
        (CLASSES[:, :-1], NUMBERS[:, :-1], CrayonMapError),
        (CLASSES, NUMBERS[:, :-1], CrayonMapError),
        (CLASSES[0], NUMBERS[0], CrayonMapError),
        (CLASSES + 128, NUMBERS, CrayonIndexError),
        (CLASSES - 1, NUMBERS, CrayonIndexError),
        (CLASSES, NUMBERS - 1, CrayonIndexError),
    ],
)
def test_maps_that_do_not_fit_are_refused(
    collavo: Collavo, classes: Tensor, numbers: Tensor, error: type[Exception]
) -> None:
    with pytest.raises(error):
        collavo.crayon_features(classes, numbers)


@torch.inference_mode()
def test_in_a_batch_each_prompt_has_its_own_crayon_prompt_or_none(collavo: Collavo) -> None:
    features = collavo.image_features(pixels(2))
    crayon = collavo.crayon_features(CLASSES, NUMBERS)
    together = collavo.last_logits(
        collavo.read(
            batch([1, 480, 8], [1, 5, 6, 480, 8, 9], [1, 4]),
            features,
            crayon=crayon,
            with_crayon=torch.tensor([False, True, True]),
        )
    )
    alone = [
        collavo.read(batch([1, 480, 8]), features[:1]),
        collavo.read(batch([1, 5, 6, 480, 8, 9]), features[1:], crayon=crayon),
        collavo.read(batch([1, 4]), None),
    ]
    for row, states in zip(together, alone, strict=True):
        assert torch.allclose(row, collavo.last_logits(states)[0], atol=2e-5)


def test_features_must_match_the_image_positions(collavo: Collavo) -> None:
    features = collavo.image_features(pixels(1))
    with pytest.raises(ValueError, match="25 image features for 50"):
        collavo.read(batch([1, 480], [1, 480]), features)
    with pytest.raises(ValueError, match="0 image features for 25"):
        collavo.read(batch([1, 480]), None)
    with pytest.raises(ValueError, match="50 crayon features for 25"):
        image_rows(torch.ones(1, 25, dtype=torch.bool), torch.zeros(2, 25, 8))


@pytest.mark.parametrize("kind", ["collavo", "moai"])
@torch.inference_mode()
def test_decode_calls_no_low_rank_layer_and_no_mixer(kind: str, collavo: Collavo, moai: Moai) -> None:
    model: VisionLanguageModel = collavo if kind == "collavo" else moai
    called: Counter[str] = Counter()

    def count(name: str) -> Any:
        return lambda module, arguments, output: called.update([name.rsplit(".", maxsplit=1)[-1]])

    handles = [
        module.register_forward_hook(count(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "Plora" in name
    ]
    mixers = [module.register_forward_hook(count("mixer")) for module in model.model.mixers.values()]
    prompt, cache = batch([1, 5, 480, 8]), GrowingCache()
    features = model.image_features(pixels())
    if isinstance(model, Collavo):
        model.read(prompt, features, crayon=model.crayon_features(CLASSES, NUMBERS), cache=cache)
    elif isinstance(model, Moai):
        model.read(prompt, features, torch.zeros(1, 8, 64), cache=cache)
    linears = sum(isinstance(module, PartialLoraLinear) for module in model.modules())
    assert called["Plora_main"] == called["Plora_A"] == called["Plora_B"] == linears == 40
    # wqkv, wo, w1 and w3 of 8 layers; never w2.
    assert called["Plora_seg_A"] == called["Plora_seg_B"] == (32 if kind == "collavo" else 0)
    assert called["mixer"] == len(mixers)
    called.clear()
    DecodingSession(model, prompt, cache).step(torch.tensor([7]))
    for handle in (*handles, *mixers):
        handle.remove()
    assert called == {"Plora_main": linears}

"""MoAI's gates as a caller may turn them, its compressor in batches, and requests without auxiliary information."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from llm_server.models.aux_tokens import SOURCES, auxiliary_batch, auxiliary_text
from llm_server.models.gates import (
    BlendedGate,
    FixedGate,
    GateBias,
    GateOverrideError,
    GateOverrides,
    Side,
    one_expert,
)
from llm_server.models.moai import Moai, MoaiReading
from llm_server.models.prompt_batch import prompt_batch

LONG, SHORT = [1, 5, 9, 11, 480, 8, 7], [1, 480, 6]
LAYER = 7


def read(moai: Moai, *prompts: list[int], overrides: tuple[GateOverrides | None, ...] = ()) -> MoaiReading:
    batch = prompt_batch(prompts, image_id=480, image_tokens=25, pad_id=2)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(1, 3, 70, 70, generator=generator).expand(int(batch.with_image.sum()), -1, -1, -1)
    auxiliary = torch.randn(1, 8, 64, generator=generator).expand(len(prompts), -1, -1)
    with torch.inference_mode():
        features = moai.image_features(pixels) if len(pixels) else None
        return moai.read(batch, features, auxiliary, overrides=overrides)


def last(moai: Moai, reading: MoaiReading) -> Tensor:
    return moai.last_logits(reading.states)


def test_gates_are_told_and_sum_to_one(moai: Moai) -> None:
    means = read(moai, LONG, SHORT).mixing.mean_gates()
    assert set(means) == {(LAYER, side) for side in get_args(Side)}
    for mean in means.values():
        assert mean.shape == (2, 3)
        assert torch.allclose(mean.sum(dim=1), torch.ones(2), atol=1e-5)


def test_every_row_of_a_batch_has_its_own_gates(moai: Moai) -> None:
    fixed = GateOverrides({"image": FixedGate((0.2, 0.3, 0.5)), "language": one_expert(1)})
    bias = GateOverrides(layers={(LAYER, "language"): GateBias((0.0, 5.0, -5.0))})
    together = read(moai, LONG, LONG, SHORT, overrides=(fixed, None, bias))
    alone = [
        read(moai, prompt, overrides=(each,)) for prompt, each in ((LONG, fixed), (LONG, None), (SHORT, bias))
    ]
    for row, reading in enumerate(alone):
        assert torch.allclose(last(moai, together)[row], last(moai, reading)[0], atol=1e-4)
    assert float((last(moai, alone[0]) - last(moai, alone[1])).abs().max()) > 0.05
    means = together.mixing.mean_gates()
    assert means[LAYER, "image"][0].tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert means[LAYER, "language"][0].tolist() == [0.0, 1.0, 0.0]
    assert means[LAYER, "language"][2, 1] > 0.9


def test_a_fixed_gate_of_the_models_own_weights_changes_nothing_much(moai: Moai) -> None:
    own = read(moai, LONG)
    zero = GateOverrides({"image": GateBias((0.0, 0.0, 0.0)), "language": GateBias((1.0, 1.0, 1.0))})
    assert torch.allclose(last(moai, own), last(moai, read(moai, LONG, overrides=(zero,))), atol=1e-4)


def test_a_blended_gate_lies_between_the_models_own_and_the_fixed_one(moai: Moai) -> None:
    own = read(moai, LONG).mixing.gates[LAYER, "image"]
    half = GateOverrides({"image": BlendedGate((1.0, 0.0, 0.0), 0.5)})
    blended = read(moai, LONG, overrides=(half,)).mixing.gates[LAYER, "image"]
    assert torch.allclose(blended, (own + torch.tensor([1.0, 0.0, 0.0])) / 2, atol=1e-6)


def test_a_layers_own_override_goes_before_the_one_for_all(moai: Moai) -> None:
    both = GateOverrides({"image": one_expert(0)}, {(LAYER, "image"): one_expert(2)})
    weights = read(moai, LONG, overrides=(both,)).mixing.mean_gates()
    assert weights[LAYER, "image"][0].tolist() == [0.0, 0.0, 1.0]
    assert weights[LAYER, "language"][0].max() < 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixedGate((0.5, 0.5, math.nan)),
        lambda: FixedGate((0.5, 0.6, -0.1)),
        lambda: FixedGate((0.5, 0.5)),  # type: ignore[arg-type]
        lambda: GateBias((0.0, math.inf, 0.0)),
        lambda: one_expert(3),
        lambda: BlendedGate((0.1, 0.2, 0.7), 1.1),
        lambda: BlendedGate((0.1, -0.2, 0.7), 0.5),
    ],
)
def test_gates_that_make_no_sense_are_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(GateOverrideError):
        make()


def test_overrides_that_do_not_fit_the_model_are_refused(moai: Moai) -> None:
    with pytest.raises(GateOverrideError, match="layer 6 has no mixer"):
        read(moai, LONG, overrides=(GateOverrides(layers={(6, "image"): one_expert(0)}),))
    with pytest.raises(ValueError, match="1 gate overrides for 2 prompts"):
        read(moai, LONG, SHORT, overrides=(None,))


def test_a_prompt_without_image_is_read_as_alone(moai: Moai) -> None:
    together = last(moai, read(moai, LONG, [1, 5, 6]))
    assert torch.isfinite(together).all()
    assert torch.allclose(together[1], last(moai, read(moai, [1, 5, 6]))[0], atol=1e-4)


@torch.inference_mode()
def test_compressed_tokens_do_not_depend_on_batch_mates_unless_asked_to(moai: Moai) -> None:
    texts = [[1, 4, 5, 6, 7, 8, 9, 10], [1, 7]]
    maps = torch.randn(2, 25, 64, generator=torch.Generator().manual_seed(5))
    alone = moai.auxiliary(auxiliary_batch(texts[1:], 2), maps[1:])
    both = auxiliary_batch(texts, 2)
    assert torch.allclose(moai.auxiliary(both, maps)[1:], alone, atol=2e-5)
    published = moai.auxiliary(both, maps, mask_padding=False)[1:]
    assert float((published - alone).abs().max()) > 0.01


@torch.inference_mode()
def test_auxiliary_information_switched_off_is_the_bos_token_alone(moai: Moai) -> None:
    off = moai.auxiliary(auxiliary_batch([[1]], 2), None)
    assert off.shape == (1, 8, 64)
    mixed = moai.auxiliary(auxiliary_batch([[1], [1, 5, 6]], 2), None)
    assert torch.allclose(mixed[:1], off, atol=2e-5)
    with pytest.raises(ValueError, match="at least one"):
        auxiliary_batch([], 2)


def test_sources_left_out_keep_their_spaces() -> None:
    sentences = {source: f"<{source}>" for source in SOURCES}
    assert auxiliary_text(sentences) == "<regions> <detections> <relations> <text>"
    assert auxiliary_text(sentences, {"detections", "text"}) == "<regions>  <relations> "
    assert auxiliary_text({}) == auxiliary_text(sentences, set(SOURCES)) == "   "

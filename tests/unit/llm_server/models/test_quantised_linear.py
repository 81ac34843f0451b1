"""Weights quantised in pieces are, bit for bit, what bitsandbytes makes of them at once."""

from __future__ import annotations

from typing import Any

import bitsandbytes
import pytest
import torch

from llm_server.models.precision import precision
from llm_server.models.quantised_linear import quantised_linear

bnb: Any = bitsandbytes.nn
CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(24, 70), (40, 64), (33, 7), (1100, 1000)])
def test_nf4_is_that_of_bitsandbytes(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ours: Any = quantised_linear(weight, precision("nf4", torch.float32), CPU)
    theirs = bnb.Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4").to(CPU)
    mine, golden = ours.weight.quant_state, theirs.quant_state
    assert torch.equal(ours.weight.data, theirs.data)
    assert torch.equal(mine.absmax, golden.absmax)
    assert torch.equal(mine.state2.absmax, golden.state2.absmax)
    assert torch.equal(mine.offset, golden.offset)
    states = torch.randn(3, shape[1])
    layer = bnb.Linear4bit(shape[1], shape[0], bias=False, compute_dtype=torch.float32, quant_type="nf4")
    layer.weight = theirs
    layer.support_avx512bf16_for_cpu = False
    with torch.inference_mode():
        assert torch.equal(ours(states), layer(states))


@pytest.mark.parametrize("shape", [(24, 70), (1100, 1000)])
def test_int8_is_that_of_bitsandbytes(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ours: Any = quantised_linear(weight, precision("int8", torch.float16), CPU)
    theirs = bnb.Int8Params(weight.half(), requires_grad=False, has_fp16_weights=False).to(CPU)
    assert torch.equal(ours.weight.data, theirs.data)
    assert torch.equal(ours.weight.SCB, theirs.SCB)
    states = torch.randn(3, shape[1]).half()
    with torch.inference_mode():
        exact = states.float() @ weight.T
        apart = float((ours(states).float() - exact).abs().max())
    assert apart < 0.05 * float(exact.abs().max())


def test_a_precision_that_quantises_nothing_makes_no_such_layer() -> None:
    with pytest.raises(ValueError, match="bf16 quantises nothing"):
        quantised_linear(torch.zeros(2, 2), precision("bf16"), CPU)

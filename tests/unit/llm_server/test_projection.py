"""Products in oneDNN's layout have the values of plain ones; what is not plain is left to its module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llm_server.lora_stack import LoraStack, LowRankPair
from llm_server.projection import packable, projection


def linears(*outs: int, dtype: torch.dtype, width: int = 48) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(width, out, bias=False, dtype=dtype) for out in outs]


@pytest.mark.parametrize("rows", [1, 3, 70])
def test_packed_and_fused_is_the_product_of_each(rows: int) -> None:
    modules = linears(32, 16, 16, dtype=torch.bfloat16)
    if not packable(modules[0].weight):
        pytest.skip("this processor has no bfloat16 products")
    x = torch.randn(rows, 48, dtype=torch.bfloat16)
    with torch.inference_mode():
        expected = torch.cat([module(x).float() for module in modules], dim=1)
        product = projection(modules, pack=True)
        torch.testing.assert_close(product(x).float(), expected, atol=0.02, rtol=0.02)
    assert all(module.weight.numel() == 0 for module in modules), "its memory is given back"


def test_fused_in_full_precision_is_exact_and_shares_its_memory_with_the_modules() -> None:
    modules = linears(32, 16, dtype=torch.float32)
    x = torch.randn(5, 48)
    with torch.inference_mode():
        expected = torch.cat([module(x) for module in modules], dim=1)
        product = projection(modules, pack=True)
        torch.testing.assert_close(product(x), expected)
        torch.testing.assert_close(modules[1](x), expected[:, 32:])
    storages = {module.weight.untyped_storage().data_ptr() for module in modules}
    assert len(storages) == 1


def test_a_layer_that_computes_itself_is_called() -> None:
    class Doubling(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    torch.manual_seed(0)
    plain, odd = nn.Linear(8, 4, bias=False), Doubling(8, 4, bias=False)
    x = torch.randn(2, 8)
    with torch.inference_mode():
        torch.testing.assert_close(
            projection([plain, odd], pack=True)(x), torch.cat([plain(x), odd(x)], dim=1)
        )


def test_a_bias_is_refused() -> None:
    with pytest.raises(ValueError, match="bias"):
        projection([nn.Linear(4, 4)], pack=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 6])
def test_a_stack_adds_each_rows_own_adapters(dtype: torch.dtype, rows: int) -> None:
    torch.manual_seed(1)
    stack = LoraStack(48, [32, 16], dtype=dtype, device=torch.device("cpu"))
    pairs = [
        {
            place: LowRankPair(torch.randn(rank, 48) / 7, torch.randn(out, rank) / 2, 0.5)
            for place, out in places
        }
        for rank, places in ((4, ((0, 32), (1, 16))), (3, ((1, 16),)))
    ]
    stack.append(4, pairs[0])
    stack.append(3, pairs[1])
    x, out = torch.randn(rows, 48), torch.randn(rows, 48)
    one = torch.randn(rows, 2)
    expected = out.clone()
    for adapter, mapping in enumerate(pairs):
        for place, pair in mapping.items():
            columns = slice(0, 32) if place == 0 else slice(32, 48)
            expected[:, columns] += one[:, adapter, None] * ((x @ pair.a.T) @ pair.b.T) * pair.scaling
    factors = one.repeat_interleave(torch.tensor([4, 3]), dim=1).repeat(1, 2).to(dtype)
    with torch.inference_mode():
        summed = stack.add_to(out.to(dtype), x.to(dtype), factors)
    tolerance = 1e-5 if dtype is torch.float32 else 0.06
    torch.testing.assert_close(summed.float(), expected, atol=tolerance, rtol=tolerance)

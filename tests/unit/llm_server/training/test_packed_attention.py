"""Attention in strips is torch's masked attention, forward and backward, and skips what nobody attends to."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm_server.training import packed_attention as packed
from llm_server.training.packed_attention import additive, packed_attention, strips
from llm_server.training.packing import attention_mask


def of_torch(heads: list[Tensor], mask: Tensor) -> Tensor:
    query, key, value = heads
    shared = query.shape[1] // key.shape[1]
    return torch.nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1), attn_mask=mask, scale=0.3
    ).transpose(1, 2)


def ours(heads: list[Tensor], mask: Tensor) -> Tensor:
    query, key, value = heads
    out, _ = packed_attention(torch.nn.Module(), query, key, value, additive(mask, query.dtype), scaling=0.3)
    return out


def random_heads(batch: int, length: int, seen: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    shapes = (batch, 6, length, 8), (batch, 2, seen, 8), (batch, 2, seen, 8)
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def row(prefix: int, branches: list[int], length: int) -> list[int]:
    numbers = [0] * prefix + [n for n, size in enumerate(branches, start=1) for _ in range(size)]
    return (numbers + [-1] * length)[:length]


@st.composite
def packed_rows(draw: st.DrawFn) -> Tensor:
    length = draw(st.integers(1, 90))
    shapes = st.tuples(st.integers(0, 40), st.lists(st.integers(1, 20), max_size=6))
    return torch.tensor([row(*shape, length) for shape in draw(st.lists(shapes, min_size=1, max_size=3))])


@settings(deadline=None, max_examples=60)
@given(branches=packed_rows(), strip=st.sampled_from((1, 7, 16, 64)), block=st.sampled_from((1, 5, 16)))
def test_strips_are_torchs_attention(branches: Tensor, strip: int, block: int) -> None:
    mask = attention_mask(branches)
    heads, others = (random_heads(len(branches), branches.shape[1], branches.shape[1]) for _ in range(2))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(packed, "STRIP", strip)
        patched.setattr(packed, "BLOCK", block)
        found = ours(heads, mask)
    expected = of_torch(others, mask)
    torch.testing.assert_close(found, expected)
    pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(found, heads, pull)
    expected_gradients = torch.autograd.grad(expected, others, pull)
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-5, rtol=1e-4)


def test_queries_at_the_end_of_what_is_cached() -> None:
    query, key, value = random_heads(2, 9, 9)
    mask = attention_mask(torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, -1], [0, 0, 1, 1, 1, 2, 2, 3, 3]]))
    expected = of_torch([query, key, value], mask)
    torch.testing.assert_close(ours([query[:, :, -2:], key, value], mask[:, :, -2:]), expected[:, -2:])


def test_a_strip_of_branches_reads_the_prefix_and_itself_only() -> None:
    mask = attention_mask(torch.tensor([row(200, [128, 128, 128], 584)]))
    parts = strips(additive(mask, torch.float32))
    assert [(one.start, one.end) for one in parts] == [
        (0, 128),
        (128, 256),
        (256, 384),
        (384, 512),
        (512, 584),
    ]
    assert [one.runs for one in parts] == [
        ((0, 128),),
        ((0, 256),),
        ((0, 384),),
        ((0, 208), (320, 512)),
        ((0, 208), (448, 584)),
    ]
    # Only what is not seen by all of a strip has a mask to add.
    assert [one.mask.shape[-1] for one in parts] == [127, 256 - 129, 384 - 200, 400 - 200, 344 - 200]


def test_what_is_refused() -> None:
    query, key, value = random_heads(1, 4, 4)
    with pytest.raises(ValueError, match="mask"):
        packed_attention(torch.nn.Module(), query, key, value, None, 0.3)
    with pytest.raises(ValueError, match="attend to nothing"):
        ours([query, key, value], torch.zeros(1, 1, 4, 4, dtype=torch.bool))

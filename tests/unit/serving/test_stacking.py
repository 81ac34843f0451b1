"""Batches are what was stacked, in memory that stays where it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.stacking import BatchBuffer, Float


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=6))
def test_a_batch_is_what_numpy_stacks_whatever_was_there_before(sizes: list[tuple[int, int, int]]) -> None:
    buffer, rng = BatchBuffer(), np.random.default_rng(0)
    for count, height, width in sizes:
        tensors = [rng.random((3, height, width), np.float32) for _ in range(count)]
        batch = buffer.stack(tensors)
        np.testing.assert_array_equal(batch, np.stack(tensors))
        assert batch.flags.c_contiguous


def test_memory_is_kept() -> None:
    buffer = BatchBuffer()
    tensors = [np.ones((3, 4, 4), np.float32)] * 4
    first = buffer.stack(tensors)
    assert np.shares_memory(first, buffer.stack(tensors[:2]))
    assert np.shares_memory(buffer.stack(tensors[:1]), tensors[0])


@pytest.mark.parametrize("wrong", [[], [np.zeros((1, 2), np.float32), np.zeros((2, 1), np.float32)]])
def test_no_batch_is_made_of_nothing_or_of_several_shapes(wrong: list[Float]) -> None:
    with pytest.raises(ValueError):
        BatchBuffer().stack(wrong)

"""Decoding steps filled up to a recorded shape say what the same steps say as they are.

What records here records nothing and computes again: shapes, padding and memory are what is tested. The test marked
`gpu` holds CUDA's recordings to the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from llm_server import decode_graphs
from llm_server.cuda_recorder import CudaRecorder
from llm_server.decode_graphs import DecodeGraphs, Recorder
from llm_server.kv_store import KvStore
from llm_server.models.checkpoint import load
from llm_server.models.precision import precision
from llm_server.runner import DecodeRow
from llm_server.vision_language_runner import VisionLanguageRunner

BLOCK = 4


class Again:
    """Computes again what it was to record."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.recorded = 0
        self.error: RuntimeError | None = None

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        if self.error is not None:
            raise self.error
        self.recorded += 1
        work()
        return work

    def synchronize(self) -> None:
        """Nothing is under way."""


def runner(golden_dir: Path, recorder: Recorder | None, device: str = "cpu") -> VisionLanguageRunner:
    where = torch.device(device)
    model = load(
        golden_dir / "checkpoints" / "collavo-tiny", precision("fp32"), device=where, keep_unused=False
    )
    return VisionLanguageRunner(model, blocks=64, block_size=BLOCK, recorder=recorder, recorded_rows=6)


def told(one: VisionLanguageRunner, lengths: list[int], steps: int) -> list[NDArray[np.float32]]:
    """The logits of ``steps`` steps of sequences that begin with so many tokens."""
    # Blocks hold what others left: nothing of that may be heard.
    one._store._memory[:, :-2] = torch.nan
    tables = [range(row * 8, row * 8 + 8) for row in range(len(lengths))]
    for row, (length, table) in enumerate(zip(lengths, tables, strict=True)):
        one.prefill([5 + row] * length, start=0, blocks=table, adapters=(), last=False)
    return [
        one.decode(
            [
                DecodeRow(7 + step + row, length + step, table, ())
                for row, (length, table) in enumerate(zip(lengths, tables, strict=True))
            ]
        )
        for step in range(steps)
    ]


@pytest.fixture(scope="module")
def pair(golden_dir: Path) -> tuple[VisionLanguageRunner, VisionLanguageRunner]:
    return runner(golden_dir, None), runner(golden_dir, Again())


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6), positions=st.sampled_from((8, 32)))
def test_a_filled_up_step_says_the_same(
    pair: tuple[VisionLanguageRunner, VisionLanguageRunner], lengths: list[int], positions: int
) -> None:
    plain, recorded = pair
    expected = told(plain, lengths, steps=6)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(decode_graphs, "POSITIONS", positions)
        found = told(recorded, lengths, steps=6)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    store = recorded._store
    assert not store._memory[:, store.nothing].any()


def test_few_shapes_are_recorded_and_each_once(golden_dir: Path) -> None:
    again = Again()
    one = runner(golden_dir, again)
    for count in (1, 2, 3, 4, 5, 6, 3, 1):
        told(one, [3] * count, steps=4)
    assert one._graphs is not None
    assert one._graphs.shapes == ((1, 512), (2, 512), (4, 512), (6, 512))
    assert again.recorded == 4


def test_what_cannot_be_recorded_is_computed_as_it_is(
    golden_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    again = Again()
    again.error = RuntimeError("operation not permitted when stream is capturing")
    found = told(runner(golden_dir, again), [3, 9], steps=3)
    expected = told(runner(golden_dir, None), [3, 9], steps=3)
    np.testing.assert_array_equal(found, expected)
    assert caplog.text.count("decodes without recordings") == 1


def test_a_lost_device_is_not_taken_for_a_refused_recording(golden_dir: Path) -> None:
    again = Again()
    again.error = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        told(runner(golden_dir, again), [3], steps=1)


def test_more_rows_than_are_recorded_are_computed_as_they_are(golden_dir: Path) -> None:
    again = Again()
    assert len(told(runner(golden_dir, again), [2] * 7, steps=1)[0]) == 7
    assert again.recorded == 0


def test_blocks_that_do_not_divide_a_shape_are_refused() -> None:
    store = KvStore(
        layers=1, blocks=2, block_size=7, heads=1, width=2, dtype=torch.float32, device=Again.device
    )

    def write(tokens: Tensor, **others: object) -> Tensor:
        return tokens

    with pytest.raises(ValueError, match="7"):
        DecodeGraphs(write, store, Again(), rows=2, width=3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs_say_the_same(golden_dir: Path) -> None:
    device = torch.device("cuda", 0)
    found = told(runner(golden_dir, CudaRecorder(device), "cuda:0"), [3, 9, 14], steps=6)
    expected = told(runner(golden_dir, None, "cuda:0"), [3, 9, 14], steps=6)
    np.testing.assert_allclose(found, expected, atol=1e-4)

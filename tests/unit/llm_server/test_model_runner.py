"""The runner against transformers and peft themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import PeftModel

from llm_server.adapter_files import AdapterFiles
from llm_server.adapter_set import AdapterSet
from llm_server.kv_cache import BlockPool, BlockTable
from llm_server.model_runner import TorchRunner
from llm_server.runner import DecodeRow
from llm_server.sequence import AdapterScales
from llm_server.tiny_model import tiny_model

VOCABULARY = 320
BOTH: AdapterScales = (("object", 1.0), ("vl", 1.0))
SETS: list[AdapterScales] = [
    (),
    (("object", 1.0),),
    (("vl", 1.0),),
    BOTH,
    (("object", 0.5), ("vl", 1.5)),
    (("object", -1.0),),
    (("vl", 0.0),),
    (("object", 2.0), ("vl", 0.25)),
]


class Reader:
    """A runner with the bookkeeping that the engine does: sequences by number, blocks from a pool."""

    def __init__(self, adapters: AdapterSet, *, blocks: int = 600, block_size: int = 4) -> None:
        self.runner = TorchRunner(adapters, blocks=blocks, block_size=block_size)
        self.pool = BlockPool(blocks, block_size)
        self.tables: dict[int, BlockTable] = {}
        self.adapters: dict[int, AdapterScales] = {}

    def prefill(
        self, number: int, tokens: list[int], *, adapters: AdapterScales, last: bool
    ) -> NDArray[np.float32] | None:
        table = self.tables.setdefault(number, BlockTable(b""))
        self.adapters[number] = adapters
        start = table.computed
        assert self.pool.reserve(table, start + len(tokens))
        logits = self.runner.prefill(tokens, start=start, blocks=table.blocks, adapters=adapters, last=last)
        table.computed += len(tokens)
        return logits

    def decode(self, numbers: list[int], tokens: list[int]) -> NDArray[np.float32]:
        rows = []
        for number, token in zip(numbers, tokens, strict=True):
            table = self.tables[number]
            assert self.pool.reserve(table, table.computed + 1)
            rows.append(DecodeRow(token, table.computed, table.blocks, self.adapters[number]))
            table.computed += 1
        return self.runner.decode(rows)

    def release(self, number: int) -> None:
        self.pool.close(self.tables.pop(number), keep=False)


def plain_logits(root: Path, tokens: list[int], scales: Mapping[str, float]) -> NDArray[np.float32]:
    """Logits at every position by peft alone: one adapter set, no cache, no batch. (T, V)."""
    peft: Any = PeftModel.from_pretrained(tiny_model(VOCABULARY), str(root / "object"), adapter_name="object")
    peft.load_adapter(str(root / "vl"), adapter_name="vl")
    peft.base_model.set_adapter(list(scales))
    for module in peft.modules():
        for name, scale in scales.items():
            if hasattr(module, "set_scale"):
                module.set_scale(name, scale)
    with torch.inference_mode():
        logits: torch.Tensor = peft.eval()(input_ids=torch.tensor([tokens])).logits[0]
    return logits.numpy()


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, VOCABULARY, length)]


@pytest.mark.parametrize("scales", SETS, ids=str)
def test_adapters_on_equal_plain_peft(
    adapter_set: AdapterSet, adapters_root: Path, scales: AdapterScales
) -> None:
    runner, tokens = Reader(adapter_set), prompt_of(20)
    logits = runner.prefill(0, tokens[:-3], adapters=scales, last=True)
    assert logits is not None
    rows = [logits, *(runner.decode([0], [token])[0] for token in tokens[-3:])]
    expected = plain_logits(adapters_root, tokens, dict(scales))[-4:]
    np.testing.assert_allclose(np.stack(rows), expected, atol=5e-5)


def test_no_adapters_equal_the_base(adapter_set: AdapterSet) -> None:
    tokens = prompt_of(9)
    logits = Reader(adapter_set).prefill(0, tokens, adapters=(), last=True)
    assert logits is not None
    with torch.inference_mode():
        base = tiny_model(VOCABULARY)(input_ids=torch.tensor([tokens])).logits[0, -1].numpy()
    np.testing.assert_allclose(logits, base, atol=1e-5)


def test_each_adapter_and_each_scale_changes_the_logits(adapter_set: AdapterSet) -> None:
    runner, tokens = Reader(adapter_set), prompt_of(9)
    seen: list[NDArray[np.float32]] = []
    for number, scales in enumerate(
        [(), (("object", 1.0),), (("vl", 1.0),), BOTH, (("object", 1.0), ("vl", 0.5))]
    ):
        logits = runner.prefill(number, tokens, adapters=scales, last=True)
        assert logits is not None
        assert all(np.abs(logits - other).max() > 0.1 for other in seen)
        seen.append(logits)


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_reading_a_prompt_in_chunks_changes_nothing(
    adapter_set: AdapterSet, adapters_root: Path, chunk: int
) -> None:
    runner, tokens = Reader(adapter_set), prompt_of(23)
    logits = None
    for start in range(0, len(tokens), chunk):
        last = start + chunk >= len(tokens)
        logits = runner.prefill(7, tokens[start : start + chunk], adapters=BOTH, last=last)
        assert (logits is not None) == last
    assert logits is not None
    np.testing.assert_allclose(logits, plain_logits(adapters_root, tokens, dict(BOTH))[-1], atol=5e-5)


def test_a_mixed_batch_gives_each_row_its_own_adapters_and_length(
    adapter_set: AdapterSet, adapters_root: Path
) -> None:
    runner = Reader(adapter_set)
    prompts = {number: prompt_of(5 + 40 * number, seed=number) for number in range(len(SETS))}
    text = {number: prompt_of(6, seed=100 + number) for number in prompts}
    for number, prompt in prompts.items():
        runner.prefill(number, prompt, adapters=SETS[number], last=True)
    numbers = [3, 0, 7, 5, 1, 6, 2, 4]
    for step in range(6):
        logits = runner.decode(numbers, [text[number][step] for number in numbers])
        for number, row in zip(numbers, logits, strict=True):
            read = prompts[number] + text[number][: step + 1]
            np.testing.assert_allclose(
                row,
                plain_logits(adapters_root, read, dict(SETS[number]))[-1],
                atol=5e-5,
                err_msg=f"{number} {step}",
            )


def test_rows_may_leave_and_join_at_any_time(adapter_set: AdapterSet, adapters_root: Path) -> None:
    runner = Reader(adapter_set)
    read: dict[int, list[int]] = {}

    def join(number: int, length: int) -> None:
        read[number] = prompt_of(length, seed=number)
        runner.prefill(number, read[number], adapters=SETS[number % len(SETS)], last=True)

    def step() -> None:
        tokens = {number: (7 * number + len(prompt)) % VOCABULARY for number, prompt in read.items()}
        logits = runner.decode(list(tokens), list(tokens.values()))
        for (number, token), row in zip(tokens.items(), logits, strict=True):
            read[number].append(token)
            expected = plain_logits(adapters_root, read[number], dict(SETS[number % len(SETS)]))[-1]
            np.testing.assert_allclose(row, expected, atol=5e-5, err_msg=str(number))

    for number, length in enumerate([300, 4, 33]):
        join(number, length)
    step()
    for leaving in (0, 2):  # the first row, whose place the last takes; then the last
        runner.release(leaving)
        del read[leaving]
        step()
    join(3, 12)
    step()
    for number in [*read]:
        runner.release(number)
    read.clear()
    join(4, 3)
    step()


def test_a_row_spoilt_by_nan_does_not_spoil_the_next_one_in_its_place(
    adapter_set: AdapterSet, adapters_root: Path
) -> None:
    runner = Reader(adapter_set)
    runner.prefill(0, prompt_of(60), adapters=(("object", float("nan")),), last=True)
    runner.prefill(1, prompt_of(5, seed=1), adapters=BOTH, last=True)
    assert np.isnan(runner.decode([0, 1], [5, 6])[0]).all()
    runner.release(0)
    row = runner.decode([1], [7])[0]
    expected = plain_logits(adapters_root, [*prompt_of(5, seed=1), 6, 7], dict(BOTH))[-1]
    np.testing.assert_allclose(row, expected, atol=5e-5)


def test_a_sequence_can_be_released_while_its_prompt_is_read(adapter_set: AdapterSet) -> None:
    runner = Reader(adapter_set)
    runner.prefill(0, prompt_of(4), adapters=(), last=False)
    runner.release(0)
    logits = runner.prefill(0, prompt_of(4), adapters=(), last=True)
    fresh = Reader(adapter_set).prefill(0, prompt_of(4), adapters=(), last=True)
    np.testing.assert_array_equal(logits, fresh)


def test_the_context_is_the_shorter_of_model_and_setting(adapter_files: list[AdapterFiles]) -> None:
    adapters = AdapterSet(tiny_model(VOCABULARY), adapter_files)
    assert TorchRunner(adapters, blocks=1).context_length == 512
    assert TorchRunner(adapters, blocks=1, context_length=100).context_length == 100
    assert TorchRunner(adapters, blocks=1, context_length=100_000).context_length == 512

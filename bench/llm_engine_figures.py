"""What only this project's engine is measured in: a second question on one picture, and a batch of mixed adapters."""

from __future__ import annotations

import statistics
import time
from typing import Any, Final

from bench.llm_contenders import ADAPTERS
from bench.llm_workload import ANOTHER_QUESTION, QUESTIONS, Answerer, Ask, ask
from llm_server.adapter_files import read_adapters
from llm_server.adapter_set import AdapterSet
from llm_server.base_checkpoint import NAME
from llm_server.model_runner import TorchRunner
from llm_server.runner import DecodeRow
from llm_server.sequence import AdapterScales

ANSWER: Final = 16
_BLOCK: Final = 16


def _about(tokenizer: Any, number: int, question: str) -> Ask:
    return ask(tokenizer, f"asked twice, {number}", question, ANSWER)


def both_questions(tokenizer: Any, answerer: Answerer, pictures: int) -> dict[str, Any]:
    """Of an engine that remembers: seconds to the first token of a first and of a second question on each picture.

    ``tokens`` are those of the second answers.
    """
    first: list[float] = []
    second: list[float] = []
    tokens: list[list[int]] = []
    for number in range(pictures):
        first.append(answerer(_about(tokenizer, number, QUESTIONS[0])).at[0])
        answer = answerer(_about(tokenizer, number, ANOTHER_QUESTION))
        second.append(answer.at[0])
        tokens.append(answer.tokens)
    return {"first_s": first, "second_s": second, "tokens": tokens}


def second_questions(tokenizer: Any, answerer: Answerer, pictures: int) -> dict[str, Any]:
    """Of an engine that remembers nothing: what it answers to the second questions alone."""
    asks = [_about(tokenizer, number, ANOTHER_QUESTION) for number in range(pictures)]
    return {"tokens": [answerer(ask).tokens for ask in asks]}


def second_question(warm: dict[str, Any], cold: dict[str, Any] | None) -> dict[str, Any]:
    """What :func:`both_questions` told, as figures, beside the answers of :func:`second_questions` if there are any."""
    first, second = statistics.median(warm["first_s"]), statistics.median(warm["second_s"])
    told = {
        "first_ttft_ms": round(1000 * first, 1),
        "second_ttft_ms": round(1000 * second, 1),
        "ratio": round(second / first, 3),
        "pictures": len(warm["first_s"]),
    }
    if cold is not None:
        pairs = zip(warm["tokens"], cold["tokens"], strict=True)
        told["same_tokens_as_cold"] = sum(ours == theirs for ours, theirs in pairs)
    return told


def adapter_steps(model: Any, *, rows: int = 8, length: int = 450, rounds: int = 20) -> dict[str, Any]:
    """The time of a decoding step whose rows all have the same adapters, beside one whose rows all differ, in turns."""
    adapters = AdapterSet(model, read_adapters(ADAPTERS, base=NAME))
    blocks = -(-(length + 1) // _BLOCK)
    runner = TorchRunner(adapters, blocks=rows * blocks, block_size=_BLOCK)
    tables = [range(row * blocks, (row + 1) * blocks) for row in range(rows)]
    first, second, *_ = adapters.keys
    both: AdapterScales = ((first, 1.0), (second, 1.0))
    kinds: list[AdapterScales] = [
        both, ((first, 1.0),), ((second, 1.0),), (), ((first, 0.5), (second, 1.0)), ((second, 0.25),),
        ((first, 1.0), (second, -0.5)), ((first, 0.125),),
    ]  # fmt: skip
    # What is written does not matter to the time, only how much: one prompt is read, the others hold a copy.
    runner.prefill([7] * length, start=0, blocks=tables[0], adapters=both, last=False)
    runner.copy_blocks(
        [pair for table in tables[1:] for pair in zip(tables[0], table, strict=True)],
    )
    batches = {
        "same": [DecodeRow(9, length, table, both) for table in tables],
        "mixed": [DecodeRow(9, length, table, kinds[row % len(kinds)]) for row, table in enumerate(tables)],
        "none": [DecodeRow(9, length, table, ()) for table in tables],
    }
    times: dict[str, list[float]] = {name: [] for name in batches}
    for _ in range(rounds):
        for name, batch in batches.items():
            began = time.perf_counter()
            runner.decode(batch)
            times[name].append(time.perf_counter() - began)
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        **{f"{name}_step_ms": round(1000 * value, 2) for name, value in median.items()},
        "ratio": round(median["mixed"] / median["same"], 3),
        "rows": rows,
    }

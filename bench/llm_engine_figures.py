"""What only this project's engine is measured in: a second question on one picture, and a batch of mixed adapters."""

from __future__ import annotations

import statistics
import time
from typing import Any

from bench.llm_contenders import ADAPTERS, engine_answerer, load, served
from bench.llm_workload import ANOTHER_QUESTION, QUESTIONS, Answerer, Ask, prompt
from llm_server.adapter_files import read_adapters
from llm_server.adapter_set import AdapterSet
from llm_server.base_checkpoint import NAME
from llm_server.model_runner import TorchRunner
from llm_server.runner import DecodeRow
from llm_server.sequence import AdapterScales

ANSWER = 24


def second_question(tokenizer: Any, answerer: Answerer, cold: Answerer, pictures: int) -> dict[str, Any]:
    """Time to the first token of a first and of a second question on each of some pictures, one at a time.

    ``cold`` forgets: what it answers to the second questions must be the same, token for token.
    """
    first: list[float] = []
    second: list[float] = []
    same = 0
    for number in range(pictures):
        seed = 900_000 + number
        first.append(answerer(Ask(prompt(tokenizer, seed, QUESTIONS[0]), ANSWER)).at[0])
        ask = Ask(prompt(tokenizer, seed, ANOTHER_QUESTION), ANSWER)
        answer = answerer(ask)
        second.append(answer.at[0])
        same += answer.tokens == cold(ask).tokens
    return {
        "first_ttft_ms": round(1000 * statistics.median(first), 1),
        "second_ttft_ms": round(1000 * statistics.median(second), 1),
        "ratio": round(statistics.median(second) / statistics.median(first), 3),
        "pictures": pictures,
        "same_tokens_as_cold": same,
    }


def adapter_steps(*, rows: int = 8, length: int = 450, rounds: int = 40) -> dict[str, Any]:
    """The time of a decoding step whose rows all have the same adapters, beside one whose rows all differ, in turns."""
    model, _ = load()
    adapters = AdapterSet(model, read_adapters(ADAPTERS, base=NAME))
    blocks = -(-(length + 1) // 16)
    runner = TorchRunner(adapters, blocks=rows * blocks)
    tables = [range(row * blocks, (row + 1) * blocks) for row in range(rows)]
    first, second, *_ = adapters.keys
    both: AdapterScales = ((first, 1.0), (second, 1.0))
    kinds: list[AdapterScales] = [
        both, ((first, 1.0),), ((second, 1.0),), (), ((first, 0.5), (second, 1.0)), ((second, 0.25),),
        ((first, 1.0), (second, -0.5)), ((first, 0.125),),
    ]  # fmt: skip
    for table in tables:
        runner.prefill([7] * length, start=0, blocks=table, adapters=both, last=False)
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


def engine_figures(tokenizer: Any, answerer: Answerer, *, threads: int, pictures: int) -> dict[str, Any]:
    """Both of the above; ``answerer`` asks an engine that remembers."""
    cold = served(*load(), threads=threads, slots=1, reuse=False)
    second = second_question(tokenizer, answerer, engine_answerer(cold), pictures)
    cold.engine.close()
    return {"second_question": second, "adapter_steps": adapter_steps()}

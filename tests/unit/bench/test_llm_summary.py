"""Figures and ratios of the language model's bench, from made-up rounds."""

from __future__ import annotations

from typing import Any

from bench.llm_summary import compared, ratios, streams


def heard(tokens: int, wall_s: float, cpu_s: float = 1.0) -> dict[str, Any]:
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "first_s": [0.5],
        "gaps_s": [0.1, 0.3],
        "tokens": tokens,
        "prompt_tokens": 100,
        "resident_mb": 900,
    }


ROUNDS = {
    "polysight": {1: [heard(60, 3.0)], 4: [heard(80, 2.0)], 8: [heard(100, 2.0), heard(100, 3.0)]},
    "generate": {1: [heard(60, 6.0)]},
    "generate-merged": {1: [heard(60, 4.0)]},
    "static-batch": {8: [heard(200, 8.0)]},
    "llama.cpp": {1: [heard(60, 1.0)]},
    "continuous-batching": {},
}


def test_rounds_are_added_up() -> None:
    ours = streams(ROUNDS, [8])["8"]["polysight"]
    assert (ours["tokens_per_s"], ours["requests"], ours["prompt_tokens"]) == (40.0, 2, 200)
    assert (ours["ttft_ms_p50"], ours["inter_token_ms_p99"]) == (500.0, 300.0)


def test_what_was_not_measured_says_as_what_it_is_told() -> None:
    told = streams(ROUNDS, [1, 4, 8])
    assert told["1"]["static-batch"]["measured_as"] == "generate: the same call"
    assert told["1"]["static-batch"]["tokens_per_s"] == told["1"]["generate"]["tokens_per_s"] == 10.0
    queued = told["8"]["generate"]
    assert queued["tokens_per_s"] == 10.0
    assert "ttft_ms_p50" not in queued
    assert "static-batch" not in told["4"]
    assert all("continuous-batching" not in level for level in told.values())


def test_a_ratio_is_over_the_best_of_the_others_but_llama_cpp() -> None:
    told = compared(streams(ROUNDS, [1, 4, 8]))
    assert (told["ratio_1"], told["ratio_1_against"]) == (2.0, "generate")
    assert (told["ratio_1_merged"], told["ratio_1_merged_against"]) == (1.333, "generate-merged")
    assert (told["ratio_8"], told["ratio_8_against"]) == (1.6, "static-batch")
    assert told["ratio_8_merged_against"] == "static-batch"
    assert list(told["ratios_8"]) == ["llama.cpp", "static-batch", "generate-merged", "generate"]


def test_there_is_no_ratio_of_what_is_not_there() -> None:
    assert compared({"1": {}})["ratio_1"] is None
    alone = compared(streams({"polysight": ROUNDS["polysight"]}, [1]))
    assert (alone["ratio_1"], alone["ratio_1_against"], alone["ratio_8"]) == (None, None, None)
    assert ratios({"generate": {"tokens_per_s": 3}}, "tokens_per_s") == {}

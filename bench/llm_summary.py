"""From what the contenders of `bench.llm` were heard to say to its figures and ratios. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.llm_workload import together

OURS: Final = "polysight"
#: They answer one request at a time: so many tokens a second however many wait.
ONE_AT_A_TIME: Final = ("generate", "generate-merged", "llama.cpp")
#: It does less, so no bar rests on it.
NO_BAR: Final = ("llama.cpp",)
#: How those are called that have the adapters added to the weights, the same for all callers.
MERGED: Final = "-merged"
#: What a batch of one is.
ALONE: Final = {"static-batch": "generate", "static-batch-merged": "generate-merged"}
#: Numbers of callers that there is a bar for.
BARS: Final = (1, 8)

Heard = Mapping[str, Mapping[int, Sequence[dict[str, Any]]]]
"""For each contender and number of callers the rounds of :func:`bench.llm_workload.listen`."""


def streams(heard: Heard, levels: Sequence[int]) -> dict[str, dict[str, Any]]:
    """By number of callers and contender; what was not measured itself says by what it was."""
    told: dict[str, dict[str, Any]] = {}
    for level in levels:
        of = {name: together(by_level[level]) for name, by_level in heard.items() if by_level.get(level)}
        for name, by_level in heard.items():
            if name in of or not by_level.get(1):
                continue
            if name in ONE_AT_A_TIME:
                alone = together(by_level[1])
                of[name] = {
                    **{
                        figure: alone[figure]
                        for figure in ("tokens_per_s", "tokens_per_cpu_s", "resident_mb")
                    },
                    "measured_as": "1 caller: it answers one at a time",
                }
        if level == 1:
            for name, same in ALONE.items():
                if name in heard and name not in of and same in of:
                    of[name] = {**of[same], "measured_as": f"{same}: the same call"}
        told[str(level)] = of
    return told


def ratios(level: Mapping[str, Any], figure: str) -> dict[str, float]:
    """Ours over each of the others', the best of them (the lowest ratio) first; none if ours is missing."""
    if OURS not in level:
        return {}
    ours = float(level[OURS][figure])
    found = {name: round(ours / float(told[figure]), 3) for name, told in level.items() if name != OURS}
    return dict(sorted(found.items(), key=lambda one: one[1]))


def compared(told: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``ratio_N``: ours over the best that keep the adapters apart as we do; ``ratio_N_merged``: over the best of all.

    Each says against whom. ``ratios_N`` are over each of the others.
    """
    result: dict[str, Any] = {}
    for level in BARS:
        by_wall = ratios(told.get(str(level), {}), "tokens_per_s")
        by_processor = ratios(told.get(str(level), {}), "tokens_per_cpu_s")
        everyone = [name for name in by_wall if name not in NO_BAR]
        apart = [name for name in everyone if not name.endswith(MERGED)]
        for suffix, names in (("", apart), ("_merged", everyone)):
            result[f"ratio_{level}{suffix}"] = by_wall[names[0]] if names else None
            result[f"ratio_{level}{suffix}_against"] = names[0] if names else None
        result |= {f"ratios_{level}": by_wall, f"cpu_ratios_{level}": by_processor}
    return result

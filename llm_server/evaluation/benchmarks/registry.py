"""All benchmarks by name."""

from __future__ import annotations

from typing import Final

from llm_server.evaluation.benchmarks.benchmark import Benchmark
from llm_server.evaluation.benchmarks.choice import AI2D, QBENCH, SEED
from llm_server.evaluation.benchmarks.exported import MATHVISTA, MMVET
from llm_server.evaluation.benchmarks.mmbench import MMBENCH, MMBENCH_CN
from llm_server.evaluation.benchmarks.scienceqa import SCIENCEQA
from llm_server.evaluation.benchmarks.vqa import CHARTQA, GQA, TEXTVQA
from llm_server.evaluation.benchmarks.yes_no import HALLUSIONBENCH, MME, POPE

BENCHMARKS: Final[dict[str, Benchmark]] = {
    one.name: one
    for one in (
        GQA, SCIENCEQA, TEXTVQA, POPE, MME, MMBENCH, MMBENCH_CN, MMVET, QBENCH, SEED, AI2D, MATHVISTA,
        HALLUSIONBENCH, CHARTQA,
    )
}  # fmt: skip

"""What the two systems are published to score, to stand beside what was measured.

CoLLaVO: arXiv 2402.11248, Tables 1 and 5; MoAI: the public figures of arXiv 2403.07508. Those in
`APPROXIMATE` were read off a plot. Per cent, but for MME, which counts points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PUBLISHED: Final[Mapping[str, Mapping[str, Mapping[str, float]]]] = {
    "gqa": {"accuracy": {"CoLLaVO-7B": 61.4}},
    "scienceqa": {"accuracy": {"CoLLaVO-7B": 80.7, "MoAI-7B": 83.5}},
    "textvqa": {"accuracy": {"CoLLaVO-7B": 64.2, "MoAI-7B": 67.8}},
    "pope": {
        "accuracy": {"CoLLaVO-7B": 87.2, "MoAI-7B": 87.1},
        **{
            f"{split}_{figure}": {"CoLLaVO-7B": value}
            for split, values in (
                ("adversarial", (86.8, 96.3, 76.5, 85.2)),
                ("random", (87.4, 98.1, 76.2, 85.8)),
                ("popular", (87.6, 98.0, 76.8, 86.1)),
            )
            for figure, value in zip(("accuracy", "precision", "recall", "f1"), values, strict=True)
        },
    },
    "mme": {
        "perception": {"CoLLaVO-7B": 1689.7, "MoAI-7B": 1714.0},
        "cognition": {"CoLLaVO-7B": 525.0, "MoAI-7B": 561.0},
        "total": {"CoLLaVO-7B": 2214.7, "MoAI-7B": 2275.0},
    },
    "mmbench": {"accuracy": {"CoLLaVO-7B": 83.0, "MoAI-7B": 79.3}},
    "mmbench-cn": {"accuracy": {"CoLLaVO-7B": 82.1, "MoAI-7B": 76.5}},
    "mm-vet": {"graded": {"CoLLaVO-7B": 40.3, "MoAI-7B": 43.7}},
    "qbench": {"accuracy": {"CoLLaVO-7B": 67.6, "MoAI-7B": 70.2}},
    "seed": {"accuracy": {"CoLLaVO-7B": 75.8, "MoAI-7B": 75.5}},
    "ai2d": {"accuracy": {"CoLLaVO-7B": 78.6, "MoAI-7B": 78.6}},
    "mathvista": {"graded": {"CoLLaVO-7B": 57.6, "MoAI-7B": 56.2}},
    "hallusionbench": {"accuracy": {"MoAI-7B": 60.7}},
    "chartqa": {},
}

#: Read off a figure, within about .3.
APPROXIMATE: Final = frozenset({("seed", "CoLLaVO-7B"), ("ai2d", "CoLLaVO-7B")})

"""How many pictures share an inference where nobody says: few on a CPU, where a batch only costs memory."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

EXPERTS = {
    "panoptic": "PanopticSettings",
    "detection": "DetectionSettings",
    "scene_graph": "SceneGraphSettings",
}


@pytest.mark.parametrize("expert", EXPERTS)
@pytest.mark.parametrize(
    ("variables", "batch"),
    [
        ({}, 2),
        ({"PROVIDERS": "cuda,cpu"}, 8),
        ({"ENGINE": "tensorrt"}, 8),
        ({"MAX_BATCH": "5"}, 5),
        ({"PROVIDERS": "cuda,cpu", "MAX_BATCH": "1"}, 1),
    ],
)
def test_batches_are_small_on_a_cpu_unless_told_otherwise(
    expert: str, variables: dict[str, str], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PROVIDERS", "ENGINE", "MAX_BATCH"):
        monkeypatch.delenv(f"{expert.upper()}_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(f"{expert.upper()}_{name}", value)
    kind: Any = getattr(importlib.import_module(f"services.{expert}.settings"), EXPERTS[expert])
    assert kind().max_batch == batch

"""The settings choose what relates; what does not fit is said before anything is served."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.scene_graph.backend import open_backend
from services.scene_graph.settings import SceneGraphSettings
from serving.engine import EngineError
from serving.weights import WeightStore, WeightsUnavailableError


def test_the_rules_are_the_default() -> None:
    settings = SceneGraphSettings()
    assert (settings.backend, settings.relation_threshold) == ("geometric", None)


@pytest.mark.parametrize("backend", ["psgtr", "psgtr+geometric"])
def test_the_network_needs_a_graph(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENE_GRAPH_BACKEND", backend)
    with pytest.raises(ValidationError, match="model_path"):
        SceneGraphSettings()
    monkeypatch.setenv("SCENE_GRAPH_MODEL_PATH", str(tmp_path / "none.onnx"))
    with pytest.raises(WeightsUnavailableError, match=r"none\.onnx"):
        open_backend(SceneGraphSettings(), WeightStore(tmp_path))
    (tmp_path / "none.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"none\.onnx"):
        open_backend(SceneGraphSettings(), WeightStore(tmp_path))


def test_serving_loads_no_training_framework() -> None:
    heavy = ("torch", "transformers", "ultralytics")
    code = (
        "import services.scene_graph.__main__, sys; "
        f"assert not [name for name in {heavy} if name in sys.modules], 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

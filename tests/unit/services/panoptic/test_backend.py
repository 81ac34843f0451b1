"""The settings choose the network; what does not fit is said before anything is served."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.panoptic.backend import Weights, describe, open_backend
from services.panoptic.model import PanopticModel, PanopticParams
from services.panoptic.settings import PanopticSettings
from serving.engine import EngineError, FakeEngine, TensorSpec
from serving.weights import WeightStore, WeightsUnavailableError


def test_yolo_is_the_default() -> None:
    settings = PanopticSettings()
    assert (settings.backend, settings.score_threshold) == ("yolo", None)


def test_mask2former_needs_a_graph(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="model_path"):
        PanopticSettings(backend="mask2former")
    missing = PanopticSettings(backend="mask2former", model_path=tmp_path / "none.onnx")
    with pytest.raises(WeightsUnavailableError, match=r"none\.onnx"):
        open_backend(missing, WeightStore(tmp_path))
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"torn\.onnx"):
        open_backend(PanopticSettings(backend="mask2former", model_path=torn), WeightStore(tmp_path))


def test_what_describe_says() -> None:
    engine = FakeEngine(
        [TensorSpec("images", ("batch", 3, "h", "w"), "float32")],
        [
            TensorSpec("output0", ("batch", 116, "anchors"), "float32"),
            TensorSpec("output1", ("batch", 32, "h", "w"), "float32"),
        ],
        lambda inputs: {},
    )
    said = describe(
        engine,
        PanopticModel(engine),
        PanopticParams(0.25, 0.5, 0.75, 100),
        Weights("name", "0123456789abcdef", "MIT"),
        revision=7,
        input_size=(384, 490),
    )
    assert (said.model.name, said.model.version, said.model.engine) == (
        "name",
        "0123456789ab-r7",
        engine.name,
    )
    assert (said.input_height, said.input_width, said.vocabulary_size) == (384, 490, 80)
    assert said.thresholds["overlap_threshold"] == 0.75
    assert said.weights[0].licence == "MIT"


def test_serving_loads_no_training_framework() -> None:
    heavy = ("torch", "transformers", "ultralytics")
    code = (
        "import services.panoptic.__main__, sys; "
        f"assert not [name for name in {heavy} if name in sys.modules], 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

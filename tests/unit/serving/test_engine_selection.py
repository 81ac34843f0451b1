"""The settings of a process choose its engine, and what is missing for the choice is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from services.detection.settings import DetectionSettings
from services.ocr.settings import OcrSettings
from services.panoptic.settings import PanopticSettings
from services.scene_graph.settings import SceneGraphSettings
from serving.engine import EngineError
from serving.engine.selection import open_engine
from serving.engine.settings import EngineSettings
from serving.engine.tensorrt import TargetUnsupportedError
from serving.engine.tensorrt.gpu import present_gpus

EXPERTS: tuple[type[EngineSettings], ...] = (
    DetectionSettings,
    OcrSettings,
    PanopticSettings,
    SceneGraphSettings,
)


@pytest.fixture
def negating(tmp_path: Path) -> Path:
    """y = -x."""
    shape: list[str | int | None] = ["batch", 2]
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "negating",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    path = tmp_path / "negating.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_onnx_runtime_on_the_cpu_is_the_default(negating: Path) -> None:
    engine = open_engine("negating", negating, EngineSettings(port=0), max_batch=3)
    try:
        assert (engine.name, engine.max_batch) == ("onnxruntime-cpu", 3)
        given = np.array([[1.0, -2.0]], np.float32)
        np.testing.assert_array_equal(engine.run({"x": given})["y"], -given)
    finally:
        engine.close()


@pytest.mark.skipif(bool(present_gpus()), reason="this machine has a GPU")
def test_tensorrt_without_a_gpu_is_refused_by_name(negating: Path, tmp_path: Path) -> None:
    settings = EngineSettings(port=0, engine="tensorrt", plans=tmp_path)
    with pytest.raises(TargetUnsupportedError, match="no GPU 0"):
        open_engine("negating", negating, settings, max_batch=1)


def test_a_provider_that_is_not_there_is_an_engine_error(negating: Path) -> None:
    settings = EngineSettings(port=0, providers=("cuda", "cpu"))
    with pytest.raises(EngineError, match="CUDAExecutionProvider"):
        open_engine("negating", negating, settings, max_batch=1)


@pytest.mark.parametrize("kind", EXPERTS, ids=lambda kind: kind.__name__)
def test_every_expert_can_be_told_which_engine_by_its_environment(
    kind: type[EngineSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = kind.model_config["env_prefix"]
    monkeypatch.setenv(f"{prefix}ENGINE", "tensorrt")
    monkeypatch.setenv(f"{prefix}PLANS", "plans")
    monkeypatch.setenv(f"{prefix}PRECISION", "fp32")
    told = kind()
    assert (told.engine, told.plans, told.precision) == ("tensorrt", Path("plans"), "fp32")

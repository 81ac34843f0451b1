"""A graph small enough to build in a moment, and plans made of a few bytes where no builder is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.engine import TensorSpec
from serving.engine.tensorrt import Built, PlanKey, Profile, ShapeRange

WIDTH = 16


@pytest.fixture
def tiny_onnx(tmp_path: Path) -> Path:
    """y = softmax(relu(x · W) · W), float32, x of [batch, 16]."""
    weights = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32) / 4
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("MatMul", ["b", "w"], ["c"]),
            helper.make_node("Softmax", ["c"], ["y"], axis=-1),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture
def profile() -> Profile:
    """Batches of one to eight."""
    return Profile(shapes={"x": ShapeRange(min=(1, WIDTH), opt=(4, WIDTH), max=(8, WIDTH))})


@pytest.fixture
def key_for(profile: Profile) -> Callable[..., PlanKey]:
    """A key; arguments replace its parts."""

    def make(**parts: object) -> PlanKey:
        whole: dict[str, object] = {
            "graph": "tiny",
            "onnx_sha256": "a" * 64,
            "precision": "fp32",
            "library": "tensorrt_rtx",
            "library_version": "1.7",
            "targets": ("sm86",),
            "profiles": (profile,),
        }
        return PlanKey.model_validate(whole | parts)

    return make


@pytest.fixture
def built() -> Built:
    """What a builder would give: 10,000 bytes that mean nothing."""
    return Built(
        plan=bytes(range(250)) * 40,
        inputs=(TensorSpec("x", ("batch", WIDTH), "float32"),),
        outputs=(TensorSpec("y", ("batch", WIDTH), "float32"),),
        log="INFO: built\n",
        seconds=0.5,
        timing_cache=b"",
    )

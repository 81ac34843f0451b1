"""Without a GPU, what needs one says so in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.engine import EngineError
from serving.engine.tensorrt import TargetUnsupportedError, load_library
from serving.engine.tensorrt.gpu import present_gpus
from serving.engine.tensorrt.opening import open_tensorrt
from serving.engine.tensorrt.store import PlanStore

pytestmark = pytest.mark.skipif(bool(present_gpus()), reason="there is a GPU")


def test_a_device_that_is_not_there_is_an_error() -> None:
    pytest.importorskip("torch")
    from serving.engine.tensorrt.cuda import CudaDevice

    with pytest.raises(EngineError, match="torch finds no CUDA device 0"):
        CudaDevice()


def test_an_engine_is_not_opened_without_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    library = load_library("tensorrt_rtx")
    with pytest.raises(TargetUnsupportedError, match="no GPU 0: the driver lists 0"):
        open_tensorrt("yolo26n", "a" * 64, store=PlanStore(tmp_path), library=library)

"""Which errors of CUDA end an engine, told by number and by words, and which only fail a batch."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serving.engine import DeviceLostError, EngineError, OnnxRuntimeEngine
from serving.engine.loss import FATAL_ERRORS, cuda_explained, device_lost


class AcceleratorError(RuntimeError):
    """As torch has it: with the number of the error."""

    def __init__(self, said: str, error_code: int) -> None:
        super().__init__(said)
        self.error_code = error_code


@pytest.mark.parametrize("number", FATAL_ERRORS)
@pytest.mark.parametrize(
    "said",
    [
        "CUDA failure {number}: {words} ; GPU=0 ; hostname=worker ; expr=cudaStreamSynchronize(stream);",
        "CUDA Runtime failure: '#{number}' at decoder.cpp:12",
        "CUDA error: {words}\nCUDA kernel errors might be asynchronously reported at some other API call",
        "cuda error {number} in a library yet to come",
    ],
)
def test_the_number_or_the_words_of_a_fatal_error_mean_that_the_device_is_lost(
    number: int, said: str
) -> None:
    assert device_lost(RuntimeError(said.format(number=number, words=FATAL_ERRORS[number])))
    assert device_lost(AcceleratorError("whatever it says", number))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: out of memory"),
        RuntimeError(
            "CUDA out of memory. Tried to allocate 700.00 MiB. GPU 0 has a total capacity of 719 MiB"
        ),
        RuntimeError("CUDA failure 2: out of memory ; GPU=0"),
        RuntimeError("CUDA error: invalid configuration argument"),
        RuntimeError("CUDA error: operation failed due to a previous error during capture"),
        RuntimeError("CUDA failure 7000: no such number"),
        RuntimeError("unknown error"),
        AcceleratorError("CUDA error: invalid argument", 1),
        ValueError("a picture of 700 x 719 pixels"),
        EngineError("the plan failed"),
    ],
)
def test_what_fails_a_batch_does_not_end_the_engine(error: Exception) -> None:
    assert not device_lost(error)


def cuda_runtime() -> Any:
    """CUDA's own library, where one is installed (it needs no GPU to say its words)."""
    package = importlib.util.find_spec("nvidia")
    folders = [] if package is None else package.submodule_search_locations or []
    found = [file for folder in folders for file in Path(folder).glob("*/lib/libcudart.so.*")]
    return ctypes.CDLL(str(found[0])) if found else None


@pytest.mark.skipif(cuda_runtime() is None, reason="the CUDA runtime is not installed")
@pytest.mark.parametrize("number", FATAL_ERRORS)
def test_these_are_the_words_of_cuda(number: int) -> None:
    library = cuda_runtime()
    library.cudaGetErrorString.restype = ctypes.c_char_p
    assert library.cudaGetErrorString(number).decode() == FATAL_ERRORS[number]


def test_errors_of_cuda_become_those_of_an_engine() -> None:
    with pytest.raises(EngineError, match="recording: out of memory") as caught, cuda_explained("recording"):
        raise RuntimeError("out of memory")
    assert type(caught.value) is EngineError
    with pytest.raises(DeviceLostError, match="computing: CUDA error"), cuda_explained("computing"):
        raise RuntimeError("CUDA error: misaligned address")
    with pytest.raises(ValueError, match="of another kind"), cuda_explained("computing"):
        raise ValueError("of another kind")


class Session:
    """Of ONNX Runtime: fails with each of `failures` in turn, then answers. Also what opens it."""

    def __init__(self, provider: str, *failures: str) -> None:
        self.failures = list(failures)
        self.provider = provider
        self.runs = 0

    def __call__(self, *_: object, **__: object) -> Any:
        return self

    def get_providers(self) -> list[str]:
        return [self.provider]

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="x", type="tensor(float)", shape=["batch", 2])]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="y", type="tensor(float)", shape=["batch", 2])]

    def run(self, names: Sequence[str], inputs: dict[str, Any]) -> list[Any]:
        self.runs += 1
        if self.failures:
            raise RuntimeError(self.failures.pop(0))
        return [inputs["x"]]

    def engine(self) -> OnnxRuntimeEngine:
        return OnnxRuntimeEngine(
            Path("tiny.onnx"),
            providers=(self.provider,),
            available=self.get_providers,
            open_session=self,
        )


INPUTS = {"x": np.ones((1, 2), np.float32)}


def test_onnxruntime_on_a_gpu_ends_with_its_device_and_not_before() -> None:
    session = Session("CUDAExecutionProvider", "CUDA failure 2: out of memory", "CUDA failure 719: x")
    engine = session.engine()
    with pytest.raises(EngineError, match="out of memory") as caught:
        engine.run(INPUTS)
    assert type(caught.value) is EngineError
    for _ in range(2):
        with pytest.raises(DeviceLostError, match="CUDA failure 719"):
            engine.run(INPUTS)
    assert session.runs == 2


def test_a_cpu_is_not_lost_whatever_its_graph_says() -> None:
    engine = Session("CPUExecutionProvider", "CUDA failure 719: x").engine()
    with pytest.raises(EngineError, match="719") as caught:
        engine.run(INPUTS)
    assert type(caught.value) is EngineError
    np.testing.assert_array_equal(engine.run(INPUTS)["y"], INPUTS["x"])

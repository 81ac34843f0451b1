"""Plans without weights: asked for only where they can be built, refitted from the right graph before anything runs.

The library is made of small classes with the calls that `refit.py` and the engine's constructor make.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from serving.engine import EngineError, Tensor
from serving.engine.tensorrt import (
    Built,
    PlanKey,
    PlanMismatchError,
    TargetUnsupportedError,
    TensorRTError,
    TensorRTLibrary,
)
from serving.engine.tensorrt.engine import TensorRTEngine
from serving.engine.tensorrt.library import TensorRTModule
from serving.engine.tensorrt.opening import PlanWeights, plan_weights
from serving.engine.tensorrt.refit import ask_for_stripped, can_strip
from serving.engine.tensorrt.store import PlanStore

KeyFor = Callable[..., PlanKey]


class Memory:
    """Of a device and of the host alike; nothing is computed here."""

    address = 64

    def host(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        return np.zeros(shape, dtype)

    def upload(self, nbytes: int, offset: int = 0) -> None:
        pass

    def download(self, nbytes: int) -> None:
        pass


class IdleDevice:
    stream = 7

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    def buffer(self, nbytes: int) -> Memory:
        return Memory()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        return work

    def synchronize(self) -> None:
        pass

    def close(self) -> None:
        pass


class Context:
    def __getattr__(self, name: str) -> Callable[..., Any]:
        shape = (8, 16)
        return lambda *_: shape if name == "get_tensor_shape" else True


class Logger:
    pass


@dataclass
class RefittingTensorRT:
    """The module. `names`: weights of the plan; `graph`: those the ONNX parser finds in the file; `silent`: weights
    that are never counted as missing; `parses` and `takes`: whether the file and the weights are taken. `calls` in
    their order."""

    names: tuple[str, ...] = ("w", "b")
    graph: tuple[str, ...] = ("w", "b")
    silent: tuple[str, ...] = ()
    parses: bool = True
    takes: bool = True
    calls: list[str] = field(default_factory=list)
    ILogger: type = Logger
    ExecutionContextAllocationStrategy: Any = field(
        default_factory=lambda: SimpleNamespace(USER_MANAGED="user managed")
    )
    BuilderFlag: Any = field(
        default_factory=lambda: SimpleNamespace(
            __members__={"STRIP_PLAN": "strip", "REFIT_IDENTICAL": "refit identical", "REFIT": "refit"}
        )
    )
    device_memory_size_v2: int = 8
    num_errors: int = 1

    # Runtime, engine, refitter and parser are one object: each has a few calls.
    def Runtime(self, _: Logger) -> RefittingTensorRT:
        return self

    def deserialize_cuda_engine(self, _: bytes) -> RefittingTensorRT:
        self.calls.append("deserialise")
        return self

    def create_execution_context(self, _: str) -> Context:
        self.calls.append("context")
        return Context()

    def Refitter(self, engine: RefittingTensorRT, _: Logger) -> RefittingTensorRT:
        assert engine is self
        return self

    def OnnxParserRefitter(self, refitter: RefittingTensorRT, _: Logger) -> RefittingTensorRT:
        assert refitter is self
        return self

    def refit_from_file(self, file: str) -> bool:
        self.calls.append(f"weights of {Path(file).name}")
        return self.parses

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: f"complaint {index}")

    def get_missing_weights(self) -> list[str]:
        return [name for name in self.names if name not in self.graph and name not in self.silent]

    def get_all_weights(self) -> list[str]:
        return list(self.names)

    def get_named_weights(self, name: str) -> Any:
        return SimpleNamespace(size=4 if name in self.graph else 0)

    def refit_cuda_engine(self) -> bool:
        self.calls.append("refit")
        return self.takes

    def library(self) -> TensorRTLibrary:
        return TensorRTLibrary("tensorrt_rtx", "1.7", cast(TensorRTModule, self), ("sm86",))


@pytest.fixture
def open_stripped(tmp_path: Path, key_for: KeyFor, built: Built) -> Callable[..., TensorRTEngine]:
    """An engine over a plan without weights, on this library."""
    plan = PlanStore(tmp_path).obtain(key_for(stripped=True), lambda _: replace(built))

    def make(module: RefittingTensorRT, weights: Path | None = Path("tiny.onnx")) -> TensorRTEngine:
        return TensorRTEngine(
            plan, module.library(), IdleDevice(), target="sm86", onnx_sha256="a" * 64, weights=weights
        )

    return make


def test_the_weights_arrive_before_the_first_context(open_stripped: Callable[..., TensorRTEngine]) -> None:
    module = RefittingTensorRT()
    open_stripped(module)
    assert module.calls == ["deserialise", "weights of tiny.onnx", "refit", "context"]


def test_a_whole_plan_is_not_refitted(tmp_path: Path, key_for: KeyFor, built: Built) -> None:
    module = RefittingTensorRT()
    plan = PlanStore(tmp_path).obtain(key_for(), lambda _: built)
    TensorRTEngine(
        plan, module.library(), IdleDevice(), target="sm86", onnx_sha256="a" * 64, weights=Path("tiny.onnx")
    )
    assert module.calls == ["deserialise", "context"]


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (RefittingTensorRT(parses=False), "do not fit the plan: complaint 0"),
        (RefittingTensorRT(graph=("w",)), "1 weights of the plan are not in it, such as b"),
        (RefittingTensorRT(graph=("w",), silent=("b",)), "1 weights of the plan are not in it, such as b"),
        (RefittingTensorRT(takes=False), "did not take the weights"),
    ],
)
def test_weights_that_do_not_fit_are_an_error_and_nothing_runs(
    open_stripped: Callable[..., TensorRTEngine], module: RefittingTensorRT, why: str
) -> None:
    with pytest.raises(TensorRTError, match=why):
        open_stripped(module)
    assert "context" not in module.calls


def test_without_a_graph_there_are_no_weights(open_stripped: Callable[..., TensorRTEngine]) -> None:
    with pytest.raises(TensorRTError, match="has no weights, and no graph to take them from"):
        open_stripped(RefittingTensorRT(), None)


class Config:
    def __init__(self) -> None:
        self.flags: list[str] = []

    def set_flag(self, flag: str) -> None:
        self.flags.append(flag)


def test_the_builder_is_told_to_strip_where_it_can() -> None:
    config, library = Config(), RefittingTensorRT().library()
    ask_for_stripped(library, cast(Any, config), ("sm86",))
    assert config.flags == ["strip", "refit identical"]
    with pytest.raises(TargetUnsupportedError, match="with the driver of a GPU"):
        ask_for_stripped(library, cast(Any, Config()), ())
    old = replace(RefittingTensorRT(), BuilderFlag=SimpleNamespace(__members__={"REFIT": "refit"}))
    assert not can_strip(old.library())
    with pytest.raises(TargetUnsupportedError, match="builds no plans without weights"):
        ask_for_stripped(old.library(), cast(Any, Config()), ("sm86",))


def test_the_installed_library_has_what_it_takes() -> None:
    pytest.importorskip("tensorrt_rtx")
    from serving.engine.tensorrt import load_library

    assert can_strip(load_library("tensorrt_rtx"))


def test_both_forms_are_kept_and_the_whole_one_is_taken_first(
    tmp_path: Path, key_for: KeyFor, built: Built
) -> None:
    store = PlanStore(tmp_path)
    here = {"onnx_sha256": "a" * 64, "library": "tensorrt_rtx", "version": "1.7", "target": "sm86"}
    store.obtain(key_for(stripped=True), lambda _: replace(built, plan=b"kernels"))
    assert store.select("tiny", "fp32", **here).read() == b"kernels"
    store.obtain(key_for(), lambda _: built)
    assert store.select("tiny", "fp32", **here).read() == built.plan
    assert len(store.list()) == 2


def test_weights_come_from_the_graph_cast_as_it_was_for_the_plan(
    tmp_path: Path, key_for: KeyFor, built: Built
) -> None:
    store = PlanStore(tmp_path)
    stripped = store.obtain(key_for(stripped=True, recipe="cast one"), lambda _: built)
    onnx = tmp_path / "cast.onnx"
    assert plan_weights(stripped, lambda: PlanWeights(onnx, "cast one")) == onnx
    with pytest.raises(PlanMismatchError, match="cast by cast one; here it is cast by cast two") as refused:
        plan_weights(stripped, lambda: PlanWeights(onnx, "cast two"))
    assert refused.value.command.endswith("--stripped")
    whole = store.obtain(key_for(), lambda _: built)

    def never() -> PlanWeights:
        raise EngineError("a whole plan needs no graph")

    assert plan_weights(whole, never) is None

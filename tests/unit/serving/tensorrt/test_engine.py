"""The execution engine where there is no GPU: values, padding, recordings, waits, refusals.

The library and the device are made of host memory. The library has the few classes that `TensorRTEngine` uses and
holds callers to TensorRT's own rules: shapes within the profile, an address for every tensor, memory for the context
before it runs. It computes y = 2 x in float32, by address, as the real one would. The device queues what is put into
its stream and does it at `synchronize`, so a copy or a wait that is missing shows in the results.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.engine import DeviceLostError, Engine, EngineError, Tensor, TensorSpec
from serving.engine.rows import PlacingEngine, run_rows
from serving.engine.stacking import BatchBuffer
from serving.engine.tensorrt import (
    Built,
    PlanCorruptError,
    PlanKey,
    PlanMismatchError,
    Profile,
    ShapeRange,
    TensorRTError,
    TensorRTLibrary,
)
from serving.engine.tensorrt.device import Buffer
from serving.engine.tensorrt.engine import TensorRTEngine
from serving.engine.tensorrt.library import TensorRTModule
from serving.engine.tensorrt.store import PlanStore, StoredPlan

STREAM = 7


class HostBuffer:
    def __init__(self, nbytes: int, device: HostDevice) -> None:
        self._far = np.full(nbytes, 0xAA, np.uint8)
        self._near = np.full(nbytes, 0x55, np.uint8)
        self._device = device

    @property
    def address(self) -> int:
        return int(self._far.ctypes.data)

    def host(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        view: Tensor = self._near[:count].view(dtype).reshape(shape)
        return view

    def upload(self, nbytes: int, offset: int = 0) -> None:
        part = slice(offset, offset + nbytes)
        self._device.enqueue("upload", lambda: np.copyto(self._far[part], self._near[part]))

    def place(self, row: Tensor, offset: int) -> None:
        """A copy on the device: from memory that the host has nothing to do with."""
        flat = np.ascontiguousarray(row).view(np.uint8).ravel()
        part = slice(offset, offset + flat.size)
        self._device.enqueue("place", lambda: np.copyto(self._far[part], flat))

    def download(self, nbytes: int) -> None:
        self._device.enqueue("download", lambda: np.copyto(self._near[:nbytes], self._far[:nbytes]))


@dataclass
class HostDevice:
    """`waits` counts host waits, `captures` recordings, `replays` their replays, `done` what the stream did. `inside`:
    whether this is the device of the thread; `lost`: waiting fails; `unrecordable`: recording fails."""

    waits: int = 0
    inside: bool = False
    lost: bool = False
    unrecordable: bool = False
    captures: int = 0
    replays: int = 0
    closed: bool = False
    done: list[str] = field(default_factory=list)
    queue: list[tuple[str, Callable[[], None]]] = field(default_factory=list)

    @property
    def stream(self) -> int:
        return STREAM

    @contextmanager
    def current(self) -> Iterator[None]:
        assert not self.inside
        self.inside = True
        try:
            yield
        finally:
            self.inside = False

    def buffer(self, nbytes: int) -> HostBuffer:
        assert self.inside
        return HostBuffer(nbytes, self)

    def enqueue(self, what: str, work: Callable[[], None]) -> None:
        self.queue.append((what, work))

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        assert not self.queue, "captured while the stream was busy"
        if self.unrecordable:
            raise EngineError("this cannot be recorded")
        work()
        recorded, self.queue = self.queue, []
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            self.queue.extend(recorded)

        return replay

    def synchronize(self) -> None:
        self.waits += 1
        if self.lost:
            raise EngineError("an illegal memory access")
        for what, work in self.queue:
            work()
            self.done.append(what)
        self.queue.clear()

    def close(self) -> None:
        self.closed = True


class _Context:
    def __init__(self, engine: _CudaEngine) -> None:
        self._engine = engine
        self._shape: tuple[int, ...] | None = None
        self._addresses: dict[str, int] = {}
        self._profile: Profile | None = None
        self._memory = 0

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert stream == STREAM
        assert self._engine.device.inside
        self._profile = self._engine.profiles[profile]
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self._engine.device_memory_size_v2
        self._memory = memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "x"
        assert self._profile is not None, "no profile was chosen"
        if not self._profile.shapes["x"].accepts(shape):
            return False
        self._shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == "y"
        assert self._shape is not None
        return (-1, 3) if self._engine.data_dependent else self._shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        assert stream == STREAM
        return self._engine.capturable

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == STREAM
        assert self._shape is not None
        assert self._memory, "runs without memory"
        assert self._engine.device.inside, "runs on whatever device the thread had"
        if self._engine.failing:
            return False
        count = int(np.prod(self._shape))
        x, y = (
            np.ctypeslib.as_array((ctypes.c_float * count).from_address(self._addresses[name]))
            for name in ("x", "y")
        )
        shape = self._shape

        def compute() -> None:
            # TensorRT lets a context that is given another shape rewrite what an earlier recording reads.
            assert self._shape == shape, f"recorded for {shape}, and the context is now at {self._shape}"
            np.multiply(x, 2, out=y)

        self._engine.device.enqueue("execute", compute)
        return True


@dataclass
class _CudaEngine:
    device: HostDevice
    profiles: tuple[Profile, ...]
    failing: bool
    data_dependent: bool
    contexts: int = 0
    device_memory_size_v2: int = 64
    capturable: bool = True
    configured: list[str] = field(default_factory=list)
    most_contexts: int = 100

    def create_runtime_config(self) -> SimpleNamespace:
        config = SimpleNamespace()
        config.set_execution_context_allocation_strategy = lambda strategy: setattr(
            config, "memory", strategy
        )
        return config

    def create_execution_context(self, how: str | SimpleNamespace) -> _Context | None:
        if isinstance(how, SimpleNamespace):
            self.configured.append(how.dynamic_shapes_kernel_specialization_strategy)
            how = how.memory
        assert how == "user managed"
        if self.contexts == self.most_contexts:
            return None
        self.contexts += 1
        return _Context(self)


class _Logger:
    def __init__(self) -> None:
        self.ready = True


@dataclass
class HostTensorRT:
    """The module. `refuses`: it takes no plan; `failing`: runs fail; `data_dependent`: so is the output's size."""

    device: HostDevice
    profiles: tuple[Profile, ...]
    refuses: bool = False
    failing: bool = False
    data_dependent: bool = False
    capturable: bool = True
    DynamicShapesKernelSpecializationStrategy: Any = None
    loggers: list[Any] = field(default_factory=list)
    __version__: str = "1.7"
    ILogger: type = _Logger
    ExecutionContextAllocationStrategy: Any = field(
        default_factory=lambda: SimpleNamespace(USER_MANAGED="user managed")
    )
    engines: list[_CudaEngine] = field(default_factory=list)
    plans: list[bytes] = field(default_factory=list)

    def Runtime(self, logger: _Logger) -> HostTensorRT:
        assert logger.ready
        self.loggers.append(logger)
        return self

    def deserialize_cuda_engine(self, plan: bytes) -> _CudaEngine | None:
        assert self.device.inside
        self.plans.append(plan)
        if self.refuses:
            return None
        made = _CudaEngine(
            self.device, self.profiles, self.failing, self.data_dependent, capturable=self.capturable
        )
        self.engines.append(made)
        return self.engines[-1]

    def library(self) -> TensorRTLibrary:
        return TensorRTLibrary("tensorrt_rtx", self.__version__, cast(TensorRTModule, self), ("sm86",))


# Small pictures of any width, and larger ones: two profiles that meet at a width of eight.
PROFILES = (
    Profile(shapes={"x": ShapeRange(min=(1, 3, 1), opt=(4, 3, 4), max=(8, 3, 8))}),
    Profile(shapes={"x": ShapeRange(min=(1, 3, 8), opt=(2, 3, 16), max=(4, 3, 32))}),
)


@dataclass
class Bench:
    """What a test needs to make engines of one stored plan."""

    plan: StoredPlan
    device: HostDevice

    def engine(
        self, *, graphs: int = 16, target: str = "sm86", onnx: str = "a" * 64, **module: Any
    ) -> TensorRTEngine:
        self.module = HostTensorRT(self.device, PROFILES, **module)
        return TensorRTEngine(
            self.plan, self.module.library(), self.device, target=target, onnx_sha256=onnx, graphs=graphs
        )


@pytest.fixture
def bench(tmp_path: Path, key_for: Callable[..., PlanKey], built: Built) -> Bench:
    specs = [(TensorSpec(name, ("batch", 3, "width"), "float32"),) for name in "xy"]
    shaped = replace(built, inputs=specs[0], outputs=specs[1])
    plan = PlanStore(tmp_path).obtain(key_for(profiles=PROFILES), lambda _: shaped)
    return Bench(plan, HostDevice())


def random(batch: int, width: int, seed: int = 0) -> Tensor:
    return np.random.default_rng(seed).normal(size=(batch, 3, width)).astype(np.float32)


def test_it_is_an_engine_and_says_which(bench: Bench) -> None:
    engine = bench.engine()
    assert isinstance(engine, Engine)
    assert engine.name == "tensorrt_rtx-sm86-fp32"
    assert engine.max_batch == 8
    assert [spec.name for spec in (*engine.inputs, *engine.outputs)] == ["x", "y"]
    assert bench.module.plans == [bench.plan.read()]


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 32)), min_size=1, max_size=30),
    st.sampled_from([0, 1, 2, 16]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_sequence_of_shapes_gives_the_right_values(
    bench: Bench, shapes: list[tuple[int, int]], graphs: int
) -> None:
    engine = bench.engine(graphs=graphs)
    kept = []
    for seed, (batch, width) in enumerate(shapes):
        x = random(min(batch, 4) if width > 8 else batch, width, seed)
        kept.append((x, engine.run({"x": x})["y"]))
    for x, y in kept:  # at the end: results must not share memory with later runs
        np.testing.assert_array_equal(y, x * 2)
    assert bench.device.queue == []


def test_a_shape_is_recorded_when_it_comes_again_and_replayed_from_then_on(bench: Bench) -> None:
    engine = bench.engine()
    counts = []
    for seed in range(4):
        engine.run({"x": random(2, 4, seed)})
        counts.append((bench.device.captures, bench.device.replays))
    assert counts == [(0, 0), (1, 0), (1, 1), (1, 2)]


def test_batches_share_the_recording_of_their_bucket(bench: Bench) -> None:
    engine = bench.engine()
    for batch in (3, 4, 3, 4):
        engine.run({"x": random(batch, 4)})
    assert (bench.device.captures, bench.device.replays) == (1, 2)


def test_a_batch_waits_once(bench: Bench) -> None:
    engine = bench.engine()
    engine.run({"x": random(2, 4)})
    engine.run({"x": random(2, 4)})
    before = bench.device.waits
    engine.run({"x": random(2, 4)})
    assert bench.device.waits == before + 1
    assert bench.device.done[-3:] == ["upload", "execute", "download"]


def test_the_least_used_recording_goes_first(bench: Bench) -> None:
    engine = bench.engine(graphs=2)
    for width in (1, 2, 1, 2, 1, 3, 3):  # 3 is recorded when 2 was used longest ago
        engine.run({"x": random(1, width)})
    replays = bench.device.replays
    engine.run({"x": random(1, 1)})
    assert bench.device.replays == replays + 1
    captures = bench.device.captures
    engine.run({"x": random(1, 2)})
    assert bench.device.captures == captures + 1


def test_without_graphs_nothing_is_recorded_and_contexts_are_one_a_profile(bench: Bench) -> None:
    engine = bench.engine(graphs=0)
    for seed in range(3):
        for width in (4, 16):
            engine.run({"x": random(2, width, seed)})
    assert bench.device.captures == 0
    assert bench.module.engines[0].contexts == len(PROFILES)


@pytest.mark.parametrize(("batch", "width"), [(5, 16), (8, 9), (1, 33), (9, 1)])
def test_what_no_profile_takes_is_refused(bench: Bench, batch: int, width: int) -> None:
    with pytest.raises(EngineError, match=r"no profile of the plan takes|outside 1\.\.8"):
        bench.engine().run({"x": random(batch, width)})


def test_a_plan_for_elsewhere_is_refused_before_the_library_sees_it(bench: Bench) -> None:
    for wrong in ({"target": "sm89"}, {"onnx": "b" * 64}, {"__version__": "1.8"}):
        with pytest.raises(PlanMismatchError, match="polysight engines build tiny"):
            bench.engine(**wrong)  # type: ignore[arg-type]
        assert bench.module.plans == []


def test_a_damaged_plan_is_refused_before_the_library_sees_it(bench: Bench) -> None:
    bench.plan.path.write_bytes(b"damaged")
    with pytest.raises(PlanCorruptError, match="not the bytes that were built"):
        bench.engine()
    assert bench.module.plans == []


def test_what_the_library_refuses_is_an_error(bench: Bench) -> None:
    with pytest.raises(TensorRTError, match="does not take the plan"):
        bench.engine(refuses=True)
    with pytest.raises(EngineError, match="the plan failed"):
        bench.engine(failing=True).run({"x": random(1, 1)})
    with pytest.raises(EngineError, match="depends on the data"):
        bench.engine(data_dependent=True).run({"x": random(1, 1)})


def test_after_close_nothing_runs(bench: Bench) -> None:
    engine = bench.engine()
    engine.run({"x": random(1, 1)})
    engine.close()
    engine.close()
    assert bench.device.closed
    with pytest.raises(EngineError, match="after close"):
        engine.run({"x": random(1, 1)})


@dataclass
class HostPlaced:
    """A row that is on the device."""

    row: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.row.shape

    @property
    def dtype(self) -> str:
        return str(self.row.dtype)

    def copy_to(self, buffer: Buffer, offset: int) -> None:
        assert isinstance(buffer, HostBuffer)
        buffer.place(self.row, offset)


@given(st.lists(st.tuples(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(1, 8)), max_size=12))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_of_host_and_device_make_one_batch(bench: Bench, calls: list[tuple[list[bool], int]]) -> None:
    engine = bench.engine()
    assert isinstance(engine, PlacingEngine)
    for seed, (on_device, width) in enumerate(calls):
        x = random(len(on_device), width, seed)
        rows = [HostPlaced(row) if there else row for row, there in zip(x, on_device, strict=True)]
        np.testing.assert_array_equal(run_rows(engine, {"x": rows}, {"x": BatchBuffer()})["y"], x * 2)


def test_rows_that_do_not_fit_are_refused(bench: Bench) -> None:
    engine = bench.engine()
    row = random(1, 4)[0]
    for rows in ([row, random(1, 5)[0]], [row.astype(np.float64)], [row] * 9, [], [row[0]]):
        with pytest.raises(EngineError, match=r"rows for x|does not take a row"):
            engine.run_rows({"x": rows})
    with pytest.raises(EngineError, match="takes"):
        engine.run_rows({"z": [row]})
    np.testing.assert_array_equal(engine.run_rows({"x": [row]})["y"], row[None] * 2)


def test_a_run_that_fails_leaves_nothing_in_the_stream(bench: Bench) -> None:
    engine = bench.engine(failing=True)
    with pytest.raises(EngineError, match="the plan failed"):
        engine.run({"x": random(1, 1)})
    assert bench.device.queue == []
    assert not bench.device.inside


def test_what_cannot_be_recorded_runs_call_by_call(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.device.unrecordable = True
    engine = bench.engine()
    for seed in range(5):
        x = random(2, 4, seed)
        np.testing.assert_array_equal(engine.run({"x": x})["y"], x * 2)
    assert caplog.text.count("runs without more CUDA graphs") == 1
    assert bench.device.captures == 0


def test_without_memory_for_another_context_the_first_one_runs(bench: Bench) -> None:
    engine = bench.engine()
    bench.module.engines[0].most_contexts = len(PROFILES)
    for seed in range(4):
        x = random(2, 4, seed)
        np.testing.assert_array_equal(engine.run({"x": x})["y"], x * 2)
    assert bench.device.captures == 0


def test_what_the_library_calls_unrecordable_is_not_tried(bench: Bench) -> None:
    engine = bench.engine(capturable=False)
    for seed in range(3):
        engine.run({"x": random(2, 4, seed)})
    assert bench.device.captures == 0


def test_kernels_are_compiled_when_shapes_are_told_where_the_library_asks(bench: Bench) -> None:
    strategies = SimpleNamespace(EAGER="eager", LAZY="lazy")
    engine = bench.engine(DynamicShapesKernelSpecializationStrategy=strategies)
    engine.run({"x": random(2, 4)})
    assert bench.module.engines[0].configured == ["eager"] * len(PROFILES)


def test_a_device_that_fails_is_not_used_again_and_closes(bench: Bench) -> None:
    engine = bench.engine()
    bench.device.lost = True
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        engine.run({"x": random(1, 1)})
    waits = bench.device.waits
    with pytest.raises(DeviceLostError, match="failed before and takes no more: an illegal memory access"):
        engine.run({"x": random(1, 1)})
    engine.close()
    assert bench.device.waits == waits


def test_what_the_library_says_all_day_is_not_kept(bench: Bench) -> None:
    engine = bench.engine()
    for number in range(1000):
        bench.module.loggers[0].log(SimpleNamespace(name="WARNING"), f"again {number}")
        bench.module.loggers[0].log(SimpleNamespace(name="VERBOSE"), "diary")
    bench.module.engines[0].failing = True
    with pytest.raises(EngineError, match="again 999") as failed:
        engine.run({"x": random(1, 1)})
    assert "diary" not in str(failed.value)
    assert len(engine._log.lines) == 100

"""A TensorRT plan as an `Engine`.

One execution context a profile. Batches are padded to a few sizes (powers of two), so that few distinct shapes are
run. A shape that comes a second time gets a context of its own, and the network with the copies out is recorded as a
CUDA graph, replayed from then on; of its own, because a context that is given another shape may rewrite what a
recording reads. All contexts share one piece of scratch memory, since they run one after another. Copies in (from
page-locked memory, or on the device for rows that are there), the network and copies out follow one another on the
engine's own stream, and the host waits once a batch (once more when a shape is recorded).

Page-locked memory is written by the host only while the stream is empty: a run that fails half way waits before it
raises. A device that fails while it computes does not recover within its process: DeviceLostError, for that batch and
for all that come later.

Not run on hardware. The logic is tested against a library and a device made of host memory; `tests/` marked `gpu`
compare it with ONNX Runtime where there is a GPU.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from serving.engine.protocol import DeviceLostError, EngineError, Tensor, TensorSpec, check_inputs
from serving.engine.rows import Row
from serving.engine.tensorrt.builder import Log, recording_logger
from serving.engine.tensorrt.contexts import can_record, create_context
from serving.engine.tensorrt.device import Buffer, Device
from serving.engine.tensorrt.errors import TensorRTError
from serving.engine.tensorrt.library import TensorRTLibrary
from serving.engine.tensorrt.plan import check_plan
from serving.engine.tensorrt.profiles import bucket, choose
from serving.engine.tensorrt.recordings import Key, Recorded, Recordings, Shapes
from serving.engine.tensorrt.refit import refit
from serving.engine.tensorrt.store import StoredPlan

if TYPE_CHECKING:
    import tensorrt_rtx as types

_REMEMBERED_LINES = 100
_logger = logging.getLogger(__name__)


class TensorRTEngine:
    """Runs one plan on one device.

    `target` is the architecture of the device (`sm86`) and `onnx_sha256` the digest of the graph that the caller
    wants to run: a plan for anything else is refused. `weights` is the graph in the plan's precision, from which a plan
    without weights gets them. `graphs` is how many recorded CUDA graphs are kept, the least recently used going first;
    0 records none.

    Raises PlanMismatchError, PlanCorruptError, or TensorRTError when the library does not take the plan.
    """

    def __init__(
        self,
        plan: StoredPlan,
        library: TensorRTLibrary,
        device: Device,
        *,
        target: str,
        onnx_sha256: str,
        weights: Path | None = None,
        graphs: int = 16,
    ) -> None:
        check_plan(
            plan.sidecar,
            onnx_sha256=onnx_sha256,
            library=library.name,
            version=library.version,
            target=target,
        )
        self._name = f"{library.name}-{target}-{plan.sidecar.key.precision}"
        self._profiles = plan.sidecar.key.profiles
        self._inputs = tuple(tensor.spec for tensor in plan.sidecar.inputs)
        self._outputs = tuple(tensor.spec for tensor in plan.sidecar.outputs)
        self._batched = frozenset(s.name for s in self._inputs if s.shape and isinstance(s.shape[0], str))
        self._max_batch = max(map(self._largest, range(len(self._profiles))))
        self._library = library
        self._device = device
        self._log = Log(deque(maxlen=_REMEMBERED_LINES))
        self._broken = ""
        self._buffers: dict[str, Buffer] = {}
        self._room: dict[str, int] = {}
        self._recordings = Recordings(graphs)
        # Kept for as long as the engine lives: the library holds on to its logger, its engine to the runtime.
        self._logger = recording_logger(library.module, self._log)
        with device.current():
            self._runtime: types.Runtime | None = library.module.Runtime(self._logger)
            engine = self._runtime.deserialize_cuda_engine(plan.read())
            if engine is None:
                raise TensorRTError(f"{self._name}: {library.name} does not take the plan: {self._said()}")
            if plan.sidecar.key.stripped:
                if weights is None:
                    raise TensorRTError(
                        f"{self._name}: the plan has no weights, and no graph to take them from was given"
                    )
                refit(library, engine, self._logger, weights)
            self._engine: types.ICudaEngine | None = engine
            self._scratch_bytes = engine.device_memory_size_v2
            self._scratch: Buffer | None = device.buffer(max(1, self._scratch_bytes))
            self._contexts = [self._context(engine, index) for index in range(len(self._profiles))]
            # Room for the largest shapes now: a buffer that has to grow later costs every recording that holds it.
            for index, profile in enumerate(self._profiles):
                self._bind(
                    self._contexts[index],
                    tuple((name, shape.max) for name, shape in profile.shapes.items()),
                )

    @property
    def name(self) -> str:
        return self._name

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._outputs

    @property
    def max_batch(self) -> int:
        return self._max_batch

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        engine = self._ready()
        check_inputs(self._name, self._inputs, inputs, self._max_batch)
        given = {name: tuple(array.shape) for name, array in inputs.items()}
        batch = max((given[name][0] for name in self._batched), default=1)

        def fill(shapes: Mapping[str, tuple[int, ...]]) -> None:
            for spec in self._inputs:
                buffer, shape = self._buffers[spec.name], shapes[spec.name]
                host = buffer.host(shape, spec.dtype)
                if spec.name in self._batched:
                    host[:batch] = inputs[spec.name]
                    host[batch:] = 0
                else:
                    host[...] = inputs[spec.name]
                buffer.upload(host.nbytes)

        return self._run(engine, given, batch, fill)

    def run_rows(self, inputs: Mapping[str, Sequence[Row]]) -> dict[str, Tensor]:
        """As `run`, with every input as its rows, each in host memory or on this device."""
        engine = self._ready()
        given = self._check_rows(inputs)
        batch = next(iter(given.values()))[0]

        def fill(shapes: Mapping[str, tuple[int, ...]]) -> None:
            for spec in self._inputs:
                buffer, rows = self._buffers[spec.name], inputs[spec.name]
                host = buffer.host(shapes[spec.name], spec.dtype)
                size = host[0].nbytes
                for index, row in enumerate(rows):
                    if isinstance(row, np.ndarray):
                        host[index] = row
                        buffer.upload(size, index * size)
                    else:
                        row.copy_to(buffer, index * size)
                if padding := host[batch:].nbytes:
                    host[batch:] = 0
                    buffer.upload(padding, batch * size)

        return self._run(engine, given, batch, fill)

    def close(self) -> None:
        if self._engine is None:
            return
        with self._device.current():
            try:
                if not self._broken:
                    self._device.synchronize()
            finally:
                # Recorded graphs use the contexts' memory, and contexts the engine's: the users go first.
                self._recordings.clear()
                self._contexts.clear()
                self._buffers.clear()
                self._scratch = None
                self._engine = None
                self._runtime = None
        if not self._broken:
            self._device.close()

    def _ready(self) -> types.ICudaEngine:
        if self._engine is None:
            raise EngineError(f"{self._name}: run after close")
        if self._broken:
            raise DeviceLostError(f"{self._name}: failed before and takes no more: {self._broken}")
        return self._engine

    def _check_rows(self, inputs: Mapping[str, Sequence[Row]]) -> dict[str, tuple[int, ...]]:
        """Hold rows to what `check_inputs` holds batches to; gives the batches' shapes."""
        names = [spec.name for spec in self._inputs]
        if inputs.keys() != set(names):
            raise EngineError(f"{self._name}: takes {names}, not {sorted(inputs)}")
        given: dict[str, tuple[int, ...]] = {}
        for spec in self._inputs:
            if spec.name not in self._batched:
                raise EngineError(f"{self._name}: {spec} has no batch axis to put rows along")
            rows = inputs[spec.name]
            if not 1 <= len(rows) <= self._max_batch or len(rows) != len(inputs[names[0]]):
                raise EngineError(f"{self._name}: {len(rows)} rows for {spec.name}, of 1..{self._max_batch}")
            given[spec.name] = (len(rows), *rows[0].shape)
            for row in rows:
                shape = (len(rows), *row.shape)
                if str(row.dtype) != spec.dtype or shape != given[spec.name] or not spec.accepts(shape):
                    raise EngineError(
                        f"{self._name}: input {spec} does not take a row {row.dtype}{list(row.shape)}"
                    )
        return given

    def _run(
        self,
        engine: types.ICudaEngine,
        given: Mapping[str, tuple[int, ...]],
        batch: int,
        fill: Callable[[Mapping[str, tuple[int, ...]]], None],
    ) -> dict[str, Tensor]:
        """Pad, let `fill` put the inputs into the stream, run, wait, and take the outputs."""
        shapes, profile, padded = self._padded(given, batch)
        with self._device.current():
            try:
                fill(dict(shapes))
                made = self._execute(engine, (profile, shapes))
            except BaseException:
                # What is in the stream already still reads and writes the host's side of the buffers.
                self._wait()
                raise
            self._wait()
            outputs = {}
            for spec in self._outputs:
                array = self._buffers[spec.name].host(made[spec.name], spec.dtype)
                follows = bool(array.ndim) and isinstance(spec.shape[0], str) and array.shape[0] == padded
                outputs[spec.name] = np.array(array[:batch] if follows else array)
        return outputs

    def _wait(self) -> None:
        try:
            self._device.synchronize()
        except EngineError as error:
            self._broken = str(error)
            raise DeviceLostError(f"{self._name}: {error}") from error

    def _padded(self, given: Mapping[str, tuple[int, ...]], batch: int) -> tuple[Shapes, int, int]:
        """The shapes that are run, the profile that runs them, and the padded batch size."""
        profile = choose(self._profiles, given)
        padded = bucket(batch, self._largest(profile))
        shapes = tuple(
            (name, (padded, *shape[1:]) if name in self._batched else shape)
            for name, shape in sorted(given.items())
        )
        return shapes, profile, padded

    def _largest(self, profile: int) -> int:
        """The largest batch of a profile: of inputs whose first axis is free."""
        ranges = self._profiles[profile].shapes
        return min((ranges[name].max[0] for name in self._batched), default=1)

    def _execute(self, engine: types.ICudaEngine, key: Key) -> dict[str, tuple[int, ...]]:
        """Put the run of a shape into the stream, after its inputs; gives the shapes that come out."""
        recorded = self._recordings.find(key)
        if recorded is not None:
            recorded.replay()
            return recorded.outputs
        profile, shapes = key
        context, recording = self._contexts[profile], self._recordings.worthwhile(key)
        if recording:
            try:
                context = self._context(engine, profile)
            except TensorRTError as error:
                self._stop_recording(error)
                recording = False
        outputs, enqueue = self._bind(context, shapes)
        enqueue()
        if recording:
            # The library does deferred work in the first run of a shape, which a recording must not contain.
            self._wait()
            self._record(key, outputs, enqueue, context)
        return outputs

    def _record(
        self,
        key: Key,
        outputs: dict[str, tuple[int, ...]],
        enqueue: Callable[[], None],
        context: types.IExecutionContext,
    ) -> None:
        """Record a run that has just been done."""
        try:
            if not can_record(context, self._device.stream):
                raise EngineError("the library says that this network cannot be recorded")
            replay = self._device.capture(enqueue)
        except DeviceLostError:
            raise
        except EngineError as error:
            self._stop_recording(error)
        else:
            self._recordings.keep(key, Recorded(outputs, replay, context))

    def _stop_recording(self, why: EngineError) -> None:
        """From now on what has not been recorded runs call by call: slower, and as right."""
        _logger.warning("%s: runs without more CUDA graphs: %s", self._name, why)
        self._recordings.stop()

    def _bind(
        self, context: types.IExecutionContext, shapes: Shapes
    ) -> tuple[dict[str, tuple[int, ...]], Callable[[], None]]:
        """Tell the context shapes and buffers; gives the shapes that come out, and what starts the run."""
        for name, shape in shapes:
            if not context.set_input_shape(name, shape):
                raise EngineError(f"{self._name}: does not take {name} of {list(shape)}: {self._said()}")
        outputs = {spec.name: self._output_shape(context, spec) for spec in self._outputs}
        sizes = dict(shapes) | outputs
        for spec in (*self._inputs, *self._outputs):
            self._make_room(spec, math.prod(sizes[spec.name]))
            if not context.set_tensor_address(spec.name, self._buffers[spec.name].address):
                raise EngineError(f"{self._name}: does not take a buffer for {spec.name}: {self._said()}")
        downloads = [
            (self._buffers[spec.name], math.prod(outputs[spec.name]) * np.dtype(spec.dtype).itemsize)
            for spec in self._outputs
        ]

        def enqueue() -> None:
            if not context.execute_async_v3(self._device.stream):
                raise EngineError(f"{self._name}: the plan failed: {self._said()}")
            for buffer, nbytes in downloads:
                buffer.download(nbytes)

        return outputs, enqueue

    def _output_shape(self, context: types.IExecutionContext, spec: TensorSpec) -> tuple[int, ...]:
        shape = tuple(context.get_tensor_shape(spec.name)[:])
        if any(size < 0 for size in shape):
            raise EngineError(
                f"{self._name}: the size of {spec.name} depends on the data, which is not supported"
            )
        return shape

    def _context(self, engine: types.ICudaEngine, profile: int) -> types.IExecutionContext:
        context = create_context(self._library, engine)
        if context is None:
            raise TensorRTError(f"{self._name}: no memory for a context of profile {profile}: {self._said()}")
        if not context.set_optimization_profile_async(profile, self._device.stream):
            raise TensorRTError(f"{self._name}: profile {profile} was refused: {self._said()}")
        if self._scratch_bytes and self._scratch is not None:
            context.set_device_memory(self._scratch.address, self._scratch_bytes)
        return context

    def _make_room(self, spec: TensorSpec, elements: int) -> None:
        nbytes = max(1, elements * np.dtype(spec.dtype).itemsize)
        if nbytes > self._room.get(spec.name, 0):
            # Recorded graphs hold the old address.
            if spec.name in self._buffers:
                self._wait()
                self._recordings.clear()
            self._buffers[spec.name] = self._device.buffer(nbytes)
            self._room[spec.name] = nbytes

    def _said(self) -> str:
        return "; ".join(self._log.problems()[-3:]) or "it did not say why"

"""A TensorRT plan as an `Engine`.

One execution context a profile. Batches are padded to a few sizes (powers of two), so that few distinct shapes are
run. A shape that comes a second time gets a context of its own and is recorded as a CUDA graph, replayed from then on;
of its own, because a context that is given another shape may rewrite what a recording reads. All contexts share one
piece of scratch memory, since they run one after another. Copies in, the network and copies out follow one another on
the engine's own stream through page-locked memory, and the host waits once a batch (once more when a shape is
recorded).

Not run on hardware. The logic is tested against a library and a device made of host memory; `tests/` marked `gpu`
compare it with ONNX Runtime where there is a GPU.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from serving.engine.protocol import EngineError, Tensor, TensorSpec, check_inputs
from serving.engine.tensorrt.builder import Log, recording_logger
from serving.engine.tensorrt.device import Buffer, Device
from serving.engine.tensorrt.errors import TensorRTError
from serving.engine.tensorrt.library import TensorRTLibrary
from serving.engine.tensorrt.plan import check_plan
from serving.engine.tensorrt.profiles import bucket, choose
from serving.engine.tensorrt.refit import refit
from serving.engine.tensorrt.store import StoredPlan

if TYPE_CHECKING:
    import tensorrt_rtx as types

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
Key = tuple[int, Shapes]
"""A profile and the input shapes that are run under it."""
# How many shapes are remembered as seen once, for each recording that is kept.
_SEEN = 8


@dataclass(frozen=True)
class _Recorded:
    """One set of input shapes under one profile: what comes out, how to run it again, and what that uses."""

    outputs: dict[str, tuple[int, ...]]
    replay: Callable[[], None]
    context: types.IExecutionContext


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
        self._max_batch = max(profile.max_batch for profile in self._profiles)
        self._library = library
        self._device = device
        self._graphs = graphs
        self._log = Log()
        # Kept for as long as the engine lives: the library holds on to its logger.
        self._logger = recording_logger(library.module, self._log)
        self._runtime = library.module.Runtime(self._logger)
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
        self._scratch = device.buffer(max(1, self._scratch_bytes))
        self._contexts = [self._context(engine, index) for index in range(len(self._profiles))]
        self._buffers: dict[str, Buffer] = {}
        self._room: dict[str, int] = {}
        self._recorded: OrderedDict[Key, _Recorded] = OrderedDict()
        self._seen: OrderedDict[Key, None] = OrderedDict()
        # Room for the largest shapes now: a buffer that has to grow later costs every recording that holds it.
        for index, profile in enumerate(self._profiles):
            self._bind(self._contexts[index], tuple((name, r.max) for name, r in profile.shapes.items()))

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
        if self._engine is None:
            raise EngineError(f"{self._name}: run after close")
        check_inputs(self._name, self._inputs, inputs, self._max_batch)
        batch = max((array.shape[0] for array in inputs.values() if array.ndim), default=1)
        shapes, profile, padded = self._padded(inputs, batch)
        for spec in self._inputs:
            host = self._buffers[spec.name].host(dict(shapes)[spec.name], spec.dtype)
            given = inputs[spec.name]
            host[: len(given)] = given
            host[len(given) :] = 0
        made = self._execute(self._engine, (profile, shapes))
        self._device.synchronize()
        outputs = {}
        for spec in self._outputs:
            array = self._buffers[spec.name].host(made[spec.name], spec.dtype)
            follows_batch = (
                isinstance(spec.shape[0], str) and array.shape[0] == padded if array.ndim else False
            )
            outputs[spec.name] = np.array(array[:batch] if follows_batch else array)
        return outputs

    def close(self) -> None:
        if self._engine is None:
            return
        self._device.synchronize()
        # Recorded graphs use the contexts' memory, and contexts the engine's: the users go first.
        self._recorded.clear()
        self._contexts.clear()
        self._buffers.clear()
        del self._scratch
        self._engine = None
        self._device.close()

    def _padded(self, inputs: Mapping[str, Tensor], batch: int) -> tuple[Shapes, int, int]:
        """The shapes that are run, the profile that runs them, and the padded batch size."""
        given = {name: tuple(array.shape) for name, array in inputs.items()}
        profile = choose(self._profiles, given)
        ranges = self._profiles[profile].shapes
        padded = bucket(batch, min(ranges[name].max[0] for name in given))
        dynamic = {spec.name for spec in self._inputs if spec.shape and isinstance(spec.shape[0], str)}
        shapes = tuple(
            (name, (padded, *shape[1:]) if name in dynamic else shape)
            for name, shape in sorted(given.items())
        )
        return shapes, profile, padded

    def _execute(self, engine: types.ICudaEngine, key: Key) -> dict[str, tuple[int, ...]]:
        """Put the run of a shape into the stream; gives the shapes that come out."""
        recorded = self._recorded.get(key)
        if recorded is not None:
            self._recorded.move_to_end(key)
            recorded.replay()
            return recorded.outputs
        profile, shapes = key
        if not self._graphs or key not in self._seen:
            self._seen[key] = None
            if len(self._seen) > _SEEN * self._graphs:
                self._seen.popitem(last=False)
            outputs, enqueue = self._bind(self._contexts[profile], shapes)
            enqueue()
            return outputs
        context = self._context(engine, profile)
        outputs, enqueue = self._bind(context, shapes)
        # The library does deferred work in the first run of a shape, which a recording must not contain.
        enqueue()
        self._device.synchronize()
        self._recorded[key] = _Recorded(outputs, self._device.capture(enqueue), context)
        if len(self._recorded) > self._graphs:
            self._recorded.popitem(last=False)
        return outputs

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
        moves = [
            (self._buffers[spec.name], math.prod(sizes[spec.name]) * np.dtype(spec.dtype).itemsize)
            for spec in (*self._inputs, *self._outputs)
        ]
        uploads, downloads = moves[: len(self._inputs)], moves[len(self._inputs) :]

        def enqueue() -> None:
            for buffer, nbytes in uploads:
                buffer.upload(nbytes)
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
        strategy = self._library.module.ExecutionContextAllocationStrategy.USER_MANAGED
        context = engine.create_execution_context(strategy)
        if context is None:
            raise TensorRTError(f"{self._name}: no memory for a context of profile {profile}: {self._said()}")
        if not context.set_optimization_profile_async(profile, self._device.stream):
            raise TensorRTError(f"{self._name}: profile {profile} was refused: {self._said()}")
        if self._scratch_bytes:
            context.set_device_memory(self._scratch.address, self._scratch_bytes)
        return context

    def _make_room(self, spec: TensorSpec, elements: int) -> None:
        nbytes = max(1, elements * np.dtype(spec.dtype).itemsize)
        if nbytes > self._room.get(spec.name, 0):
            # Recorded graphs hold the old address.
            if spec.name in self._buffers:
                self._device.synchronize()
                self._recorded.clear()
            self._buffers[spec.name] = self._device.buffer(nbytes)
            self._room[spec.name] = nbytes

    def _said(self) -> str:
        return "; ".join(self._log.problems()[-3:]) or "it did not say why"

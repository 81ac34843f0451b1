"""ONNX Runtime as an `Engine`: the default where there is no GPU, and the reference others are held against.

Two of its habits are turned off here. Its worker threads spin between batches, which starves the other
processes of a small machine. And where an execution provider cannot start, it takes the next one with no
more than a warning, so what the session really uses is compared with what was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnxruntime as ort

from serving.engine.loss import device_lost
from serving.engine.protocol import DeviceLostError, EngineError, Tensor, TensorSpec, check_inputs

CPU_PROVIDER = "CPUExecutionProvider"

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}


class OnnxRuntimeEngine:
    """One session over one ONNX file.

    `threads` is the number of intra-op threads (0: one per core). `providers` are tried in the given order
    and all must start. `available` says which providers this build has, `open_session` makes the session.

    Raises EngineError when the file cannot be loaded or a provider did not start.
    """

    def __init__(
        self,
        model: Path,
        *,
        threads: int = 0,
        max_batch: int = 8,
        providers: Sequence[str] = (CPU_PROVIDER,),
        available: Callable[[], Sequence[str]] = ort.get_available_providers,
        open_session: Callable[..., ort.InferenceSession] = ort.InferenceSession,
    ) -> None:
        if max_batch < 1:
            raise EngineError(f"max_batch must be at least 1, not {max_batch}")
        asked = tuple(providers)
        # Asking for an absent provider costs a whole session start before the silent fallback can be seen.
        present = available()
        if absent := [provider for provider in asked if provider not in present]:
            raise EngineError(f"{model.name}: this onnxruntime has no {', '.join(absent)}; it has {present}")
        try:
            session = open_session(str(model), sess_options=_options(threads), providers=list(asked))
        except Exception as error:  # onnxruntime's exception classes share no base but Exception
            raise EngineError(f"{model.name}: cannot be loaded: {error}") from error
        _check_providers(model.name, asked, tuple(session.get_providers()))
        self._session: ort.InferenceSession | None = session
        self._name = "onnxruntime-" + asked[0].removesuffix("ExecutionProvider").lower()
        self._inputs = tuple(_spec(node) for node in session.get_inputs())
        self._outputs = tuple(_spec(node) for node in session.get_outputs())
        self._output_names = [spec.name for spec in self._outputs]
        self._max_batch = max_batch
        self._on_cpu = asked == (CPU_PROVIDER,)
        self._lost = ""

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
        if self._session is None:
            raise EngineError(f"{self._name}: run after close")
        if self._lost:
            raise DeviceLostError(f"{self._name}: failed before and takes no more: {self._lost}")
        check_inputs(self._name, self._inputs, inputs, self._max_batch)
        try:
            outputs = self._session.run(self._output_names, dict(inputs))
        except Exception as error:  # as above
            if not self._on_cpu and device_lost(error):
                self._lost = str(error)
                raise DeviceLostError(f"{self._name}: {error}") from error
            raise EngineError(f"{self._name}: the graph failed: {error}") from error
        return dict(zip(self._output_names, outputs, strict=True))

    def close(self) -> None:
        self._session = None


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A plan of memory for every shape seen would be one more block each: shapes follow the pictures.
    options.enable_mem_pattern = False
    options.log_severity_level = 3  # its warnings are about fallbacks, which are checked here
    return options


def _check_providers(model: str, asked: tuple[str, ...], started: tuple[str, ...]) -> None:
    # ONNX Runtime appends the CPU for the operators that a device lacks; any other difference is a fallback.
    allowed = asked if CPU_PROVIDER in asked else (*asked, CPU_PROVIDER)
    if started not in (asked, allowed):
        raise EngineError(f"{model}: asked for {list(asked)}, but onnxruntime started {list(started)}")


def _spec(node: ort.NodeArg) -> TensorSpec:
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        raise EngineError(f"tensor {node.name} has type {node.type}, which no expert of this project uses")
    shape = tuple(
        size if isinstance(size, int) else (size or f"{node.name}.{axis}")
        for axis, size in enumerate(node.shape)
    )
    return TensorSpec(name=node.name, shape=shape, dtype=dtype)

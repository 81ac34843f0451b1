"""From an ONNX graph to a TensorRT plan, with `tensorrt` or `tensorrt_rtx`: the library is an argument.

Networks are strongly typed: a plan computes in the types that the graph is written in, so half precision is decided
when the graph is made (`serving/engine/precision.py`) and not by a flag here. Whatever the parser or the builder has
to say comes back as a typed error, not as text on standard error.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.engine.protocol import TensorSpec
from serving.engine.tensorrt.errors import BuildFailedError, GraphRefusedError, ParserProblem, TensorRTError
from serving.engine.tensorrt.gpu import present_gpus
from serving.engine.tensorrt.library import TensorRTLibrary, TensorRTModule
from serving.engine.tensorrt.profiles import Profile
from serving.engine.tensorrt.refit import ask_for_stripped

if TYPE_CHECKING:
    import tensorrt_rtx as types

OnStep = Callable[[str, int, int], None]
"""Told of progress: phase, steps done, steps in all. Called from threads of the library."""

_PROBLEMS = ("INTERNAL_ERROR", "ERROR", "WARNING")
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class BuildRequest:
    """One plan: a graph, the shapes it is built for, the architectures it is built for.

    `timing_cache` is what an earlier build on this machine gave, where the library keeps one. `stripped`: leave the
    weights out, for `refit.py` to bring in when the plan is loaded.
    """

    onnx: Path
    profiles: tuple[Profile, ...]
    targets: tuple[str, ...]
    timing_cache: bytes = b""
    stripped: bool = False


@dataclass(frozen=True)
class Built:
    """A plan and what is worth knowing of how it came about. `seconds`: parsing and building."""

    plan: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    log: str
    seconds: float
    timing_cache: bytes


@dataclass
class Log:
    """What the library said, by severity, but for its diary of tactics. A log of a running engine has a length, since
    the library may have something to say every batch: `Log(deque(maxlen=100))`.
    """

    lines: deque[tuple[str, str]] = field(default_factory=deque)

    def problems(self) -> list[str]:
        """Errors and warnings."""
        return [f"{severity}: {text}" for severity, text in self.lines if severity in _PROBLEMS]

    def text(self) -> str:
        """What is kept beside the plan."""
        return "".join(f"{severity}: {text}\n" for severity, text in self.lines)


@dataclass(frozen=True)
class ParsedGraph:
    """A network that the parser took, with what must outlive it."""

    builder: types.Builder
    parser: types.OnnxParser  # owns the weights that the network points to
    network: types.INetworkDefinition
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    log: Log


def parse_graph(library: TensorRTLibrary, onnx: Path) -> ParsedGraph:
    """Read a whole ONNX file into a strongly typed network.

    Raises GraphRefusedError with every complaint of the parser.
    """
    trt = library.module
    log = Log()
    logger = recording_logger(trt, log)
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        raise GraphRefusedError(onnx.name, [_problem(parser.get_error(i)) for i in range(parser.num_errors)])
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    for tensor in inputs:
        _tell_axes_apart(tensor)
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    return ParsedGraph(builder, parser, network, tuple(map(_spec, inputs)), tuple(map(_spec, outputs)), log)


def build_plan(
    library: TensorRTLibrary,
    request: BuildRequest,
    *,
    on_step: OnStep | None = None,
    present_targets: tuple[str, ...] | None = None,
) -> Built:
    """Parse and build. Blocking; seconds to minutes of CPU, and of the GPU where the library measures kernels.

    `present_targets` are the architectures of this machine's GPUs (default: asked of the driver).

    Raises TargetUnsupportedError, GraphRefusedError, ProfileError or BuildFailedError.
    """
    if present_targets is None:
        present_targets = tuple(gpu.target for gpu in present_gpus())
    library.check_targets(request.targets, present_targets)
    started = time.perf_counter()
    parsed = parse_graph(library, request.onnx)
    for profile in request.profiles:
        profile.check(parsed.inputs)
    config = parsed.builder.create_builder_config()
    if request.stripped:
        ask_for_stripped(library, config, present_targets)
    for profile in request.profiles:
        config.add_optimization_profile(_profile(parsed.builder, profile))
    if library.ahead_of_time:
        _name_targets(library, config, request.targets)
    # Where the library may ask for memory while it runs, nothing of it can be recorded as a CUDA graph.
    if "REQUIRE_USER_ALLOCATION" in library.module.BuilderFlag.__members__:
        config.set_flag(library.module.BuilderFlag.__members__["REQUIRE_USER_ALLOCATION"])
    cache = config.create_timing_cache(request.timing_cache) if library.timing_cache else None
    if cache is not None and not config.set_timing_cache(cache, False):
        raise TensorRTError("the timing cache is of another library or GPU: delete it")
    monitor = _monitor(library.module, on_step) if on_step is not None else None
    if monitor is not None:
        config.progress_monitor = monitor
    plan = parsed.builder.build_serialized_network(parsed.network, config)
    if plan is None:
        raise BuildFailedError(request.onnx.name, parsed.log.problems())
    return Built(
        plan=bytes(plan),
        inputs=parsed.inputs,
        outputs=parsed.outputs,
        log=parsed.log.text(),
        seconds=time.perf_counter() - started,
        timing_cache=bytes(cache.serialize()) if cache is not None else b"",
    )


def _name_targets(library: TensorRTLibrary, config: types.IBuilderConfig, targets: Sequence[str]) -> None:
    # Only libraries that build ahead of time have these: `ahead_of_time` was read off the same enum.
    capabilities: Any = library.module.ComputeCapability  # type: ignore[attr-defined]
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        if not config.set_compute_capability(capabilities.__members__[target.upper()], index):
            raise TensorRTError(f"{library.name} did not take {target} as a build target")


def _profile(builder: types.Builder, profile: Profile) -> types.IOptimizationProfile:
    made = builder.create_optimization_profile()
    for name, shape in profile.shapes.items():
        made.set_shape(name, shape.min, shape.opt, shape.max)
    return made


def _strongly_typed(trt: TensorRTModule) -> int:
    # From version 11 every network is, and the flag may go; before, it has to be asked for.
    flags: Any = getattr(trt, "NetworkDefinitionCreationFlag", None)
    flag = flags.__members__.get("STRONGLY_TYPED") if flags is not None else None
    return 1 << int(flag) if flag is not None else 0


def _tell_axes_apart(tensor: types.ITensor) -> None:
    """TensorRT takes two axes of one name for one size. Some exporters call every free axis "?": rename those."""
    seen: set[str] = set()
    for axis in range(len(tensor.shape)):
        name = tensor.get_dimension_name(axis)
        if name and name in seen:
            tensor.set_dimension_name(axis, f"{tensor.name}.{axis}")
        seen.add(name)


def _spec(tensor: types.ITensor) -> TensorSpec:
    dtype = _DTYPES.get(tensor.dtype.name)
    if dtype is None:
        raise TensorRTError(f"tensor {tensor.name} is {tensor.dtype.name}, which numpy has no type for")
    shape = tuple(
        size if size >= 0 else tensor.get_dimension_name(axis) or f"{tensor.name}.{axis}"
        for axis, size in enumerate(tensor.shape[:])
    )
    return TensorSpec(tensor.name, shape, dtype)


def _problem(error: types.ParserError) -> ParserProblem:
    return ParserProblem(error.desc(), error.code().name, error.node_name(), error.node_operator())


def recording_logger(trt: TensorRTModule, log: Log) -> types.ILogger:
    """A logger of the library's own kind that writes to `log`. Must outlive what is made with it."""
    # The base class is the library's own, and the library is an argument: the subclass is made here. The base's
    # constructor has to be called by name, or the C++ half stays unmade.
    base = trt.ILogger

    def construct(self: types.ILogger) -> None:
        base.__init__(self)

    def record(self: types.ILogger, severity: types.ILogger.Severity, text: str) -> None:
        if severity.name != "VERBOSE":
            log.lines.append((severity.name, text))

    made: types.ILogger = type("RecordingLogger", (base,), {"__init__": construct, "log": record})()
    return made


def _monitor(trt: TensorRTModule, on_step: OnStep) -> types.IProgressMonitor:
    base = trt.IProgressMonitor
    totals: dict[str, int] = {}

    def construct(self: types.IProgressMonitor) -> None:
        base.__init__(self)

    def phase_start(self: types.IProgressMonitor, phase: str, parent: str | None, steps: int) -> None:
        totals[phase] = steps
        on_step(phase, 0, steps)

    def step_complete(self: types.IProgressMonitor, phase: str, step: int) -> bool:
        on_step(phase, step + 1, totals.get(phase, step + 1))
        return True

    def phase_finish(self: types.IProgressMonitor, phase: str) -> None:
        on_step(phase, totals.get(phase, 0), totals.pop(phase, 0))

    methods = {
        "__init__": construct,
        "phase_start": phase_start,
        "step_complete": step_complete,
        "phase_finish": phase_finish,
    }
    made: types.IProgressMonitor = type("Monitor", (base,), methods)()
    return made

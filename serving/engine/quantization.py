"""Eight bits, decided in the graph: pairs of QuantizeLinear and DequantizeLinear before products and convolutions.

A strongly typed TensorRT network computes a product in eight bits where both its inputs come out of such pairs, and
everything else in the type it is written in, here float32. Scales are symmetric (no zero points, which TensorRT does
not take): one a tensor for activations, from the largest magnitude seen while calibrating, and one an output channel
for weights. Inputs, outputs and biases stay float32.

- `int8`: MatMul, Gemm and Conv, placed by ONNX Runtime's static quantiser, whose CPU kernels run the result.
- `fp8` (FLOAT8E4M3FN, compute capability 8.9 and above): MatMul and Gemm. ONNX Runtime's quantiser knows float8 with
  scales of its own making and one for a whole weight alone, so the pairs of int8 are rewritten: same places, same
  largest magnitudes, which become 448, the largest finite value of the type, instead of 127. Convolutions stay
  float32: TensorRT for RTX has float8 kernels for matrix products alone ("Working with Quantized Types").

Weights stay float32 in the file, in front of a pair that the builder folds: what shrinks is the plan. Needs the `onnx`
package (the `engines` extra); offline only.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnxruntime

from serving.engine.precision import at_opset, read_graph, save_graph
from serving.engine.protocol import EngineError, Tensor

if TYPE_CHECKING:
    from onnx import ModelProto

EightBits = Literal["int8", "fp8"]

_COMPUTES: dict[EightBits, tuple[str, ...]] = {"int8": ("MatMul", "Gemm", "Conv"), "fp8": ("MatMul", "Gemm")}
# The first opsets with scales a channel, and with float8.
_LEAST_OPSET: dict[EightBits, int] = {"int8": 13, "fp8": 19}
_OPSET = 19
_INT8_LARGEST, _FP8_LARGEST = 127.0, 448.0
_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,
    # TensorRT takes biases in the type of the product's result alone.
    "QuantizeBias": False,
}


@dataclass(frozen=True)
class Calibration:
    """What scales are measured on.

    `samples` gives the inputs of one run after the other, each time anew; `digest` says which they are. `keep`: shell
    patterns of the names of nodes that stay in float32.
    """

    samples: Callable[[], Iterator[Mapping[str, Tensor]]]
    digest: str
    keep: tuple[str, ...] = ()

    def recipe(self, precision: EightBits) -> str:
        """Changes when the same graph would be quantised to other bytes: part of every key under which it is kept."""
        kept = f", without {' '.join(self.keep)}" if self.keep else ""
        return (
            f"{precision} by onnxruntime {onnxruntime.__version__}, revision 1, {', '.join(_COMPUTES[precision])}"
            f"{kept}, largest magnitudes of {self.digest}"
        )


def quantize_graph(source: Path, destination: Path, precision: EightBits, calibration: Calibration) -> int:
    """Write `source` with pairs around what is computed in eight bits to `destination`; gives the number of pairs.

    Raises EngineError for a file that is no graph, one with its weights beyond protobuf's 2 GiB, for calibration
    without samples or with values that are no numbers, and where nothing is left to quantise; OSError.
    """
    import onnx

    model = at_opset(read_graph(source), _LEAST_OPSET[precision], _OPSET)
    nodes = [node for node in model.graph.node if node.op_type in _COMPUTES[precision]]
    for index, node in enumerate(nodes):
        node.name = node.name or f"{node.op_type}_{index}"
    chosen = [
        node.name
        for node in nodes
        if not any(fnmatchcase(node.name, pattern) for pattern in calibration.keep)
    ]
    if not chosen:
        operators = ", ".join(_COMPUTES[precision])
        raise EngineError(
            f"{source.name}: nothing in it to quantise to {precision}, which is for {operators}"
        )
    with tempfile.TemporaryDirectory() as folder:
        paired = Path(folder) / "paired.onnx"
        _pair(source.name, model, paired, precision, chosen, calibration.samples())
        quantised = onnx.load(str(paired))
    scales = _check_scales(source.name, quantised)
    if not scales:
        raise EngineError(
            f"{source.name}: nothing in it to quantise to {precision}: no product of what varies"
        )
    if precision == "fp8":
        _to_float8(quantised)
    onnx.checker.check_model(quantised)
    save_graph(quantised, destination)
    return sum(node.op_type == "QuantizeLinear" for node in quantised.graph.node)


def _pair(
    name: str,
    model: ModelProto,
    destination: Path,
    precision: EightBits,
    nodes: list[str],
    samples: Iterator[Mapping[str, Tensor]],
) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    reader = _Reader(samples)
    operators = list(_COMPUTES[precision])
    try:
        with _without_advice():
            quantize_static(
                model,
                str(destination),
                reader,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=operators,
                nodes_to_quantize=nodes,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={**_OPTIONS, "OpTypesToExcludeOutputQuantization": operators},
            )
    except EngineError:
        raise
    except Exception as error:  # its quantiser and its sessions raise what they like
        if not reader.read:
            raise EngineError(f"{name}: there is nothing to calibrate on") from error
        raise EngineError(f"{name}: cannot be quantised: {error}") from error


class _Reader:
    """Samples as ONNX Runtime's calibrater asks for them. `read`: how many it has had."""

    def __init__(self, samples: Iterable[Mapping[str, Tensor]]) -> None:
        self._samples = iter(samples)
        self.read = 0

    def get_next(self) -> dict[str, Tensor] | None:
        sample = next(self._samples, None)
        if sample is None:
            return None
        for name, values in sample.items():
            if not np.isfinite(values).all():
                raise EngineError(f"calibration: {name} holds values that are no numbers")
        self.read += 1
        return dict(sample)

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> dict[str, Tensor]:
        sample = self.get_next()
        if sample is None:
            raise StopIteration
        return sample


def _check_scales(name: str, model: ModelProto) -> int:
    """How many scales there are; every one must be a positive number."""
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for scale in scales:
        values = numpy_helper.to_array(weights[scale])
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise EngineError(f"{name}: {scale.removesuffix('_scale')} overflowed while calibrating")
    return len(scales)


def _to_float8(model: ModelProto) -> None:
    """Rewrite the pairs of int8 with scales of the largest magnitude / 127 as pairs of float8."""
    from onnx import TensorProto, helper, numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for scale_name in {node.input[1] for node in pairs}:
        scale = weights[scale_name]
        values = numpy_helper.to_array(scale) * np.float32(_INT8_LARGEST / _FP8_LARGEST)
        scale.CopyFrom(numpy_helper.from_array(values.astype(np.float32), scale_name))
    for zero_name in {node.input[2] for node in pairs}:
        zero = weights[zero_name]
        shape = list(zero.dims)
        count = int(np.prod(shape, dtype=np.int64))
        zero.CopyFrom(helper.make_tensor(zero_name, TensorProto.FLOAT8E4M3FN, shape, bytes(count), raw=True))


@contextmanager
def _without_advice() -> Iterator[None]:
    """ONNX Runtime's quantiser advises on the root logger to optimise graphs first; exported ones are."""

    def is_advice(record: logging.LogRecord) -> bool:
        return "pre-processing" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(is_advice)
    try:
        yield
    finally:
        root.removeFilter(is_advice)

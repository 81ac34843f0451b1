"""Half precision, decided in the graph: strongly typed engines compute in the types that the graph is written in.

Weights and activations become float16, inputs and outputs stay float32, and operators whose half versions are known
to be wrong or absent (resizing, top-k, non-maximum suppression and the like) stay float32 between casts. Needs the
`onnx` package (the `engines` extra); offline only. `bfloat16.py` does the same for bfloat16.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime

from serving.engine.protocol import EngineError, TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto

HALF_RECIPE = f"float16 by onnxruntime {onnxruntime.__version__}, float32 inputs and outputs"
"""Changes when the same graph would be cast to other bytes: part of every key under which a cast graph is kept."""

# Protobuf's own limit on one file; a larger graph keeps its weights beside it.
_ONE_FILE = 2**31 - 2**20


def cast_to_half(source: Path, destination: Path) -> None:
    """Write `source` in half precision to `destination` (and, where it would be too large, `<destination>.data`).

    Raises EngineError for a file that is no graph or, with its weights, is larger than protobuf takes (2 GiB); OSError.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = read_graph(source)
    with warnings.catch_warnings():
        # It tells of every weight that is rounded to the least or largest half; `engines check` measures the result.
        warnings.simplefilter("ignore")
        half = convert_float_to_float16(model, keep_io_types=True)
    save_graph(half, destination)


def read_graph(source: Path) -> ModelProto:
    """The graph with its weights, also those beside it. Raises EngineError for a file that is no graph or too large to
    be worked on (2 GiB).
    """
    model = _load(source, weights=True)
    if model.ByteSize() > _ONE_FILE:
        raise EngineError(f"{source}: with its weights it is larger than 2 GiB, which cannot be cast")
    return model


def at_opset(model: ModelProto, least: int, wanted: int) -> ModelProto:
    """`model` with operators of at least version `least`: older ones are written anew in version `wanted`, by ONNX's
    own converter. Raises EngineError where it cannot.
    """
    from onnx import version_converter

    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if versions and min(versions) < least:
        try:
            return version_converter.convert_version(model, wanted)
        except (RuntimeError, ValueError) as error:
            raise EngineError(
                f"operators of version {min(versions)} cannot be brought to {wanted}: {error}"
            ) from error
    return model


def save_graph(model: ModelProto, destination: Path) -> None:
    """One file, or a file and its weights in `<destination>.data`. Raises OSError."""
    import onnx

    onnx.save_model(
        model,
        str(destination),
        save_as_external_data=model.ByteSize() > _ONE_FILE,
        location=f"{destination.name}.data",
    )


def read_inputs(source: Path) -> tuple[TensorSpec, ...]:
    """What a graph takes, read without its weights. Raises EngineError for a file that is no graph."""
    import onnx

    graph = _load(source, weights=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    specs = []
    for tensor in graph.input:
        if tensor.name in weights:
            continue
        kind = tensor.type.tensor_type
        shape = tuple(
            size.dim_value if size.HasField("dim_value") else size.dim_param or f"{tensor.name}.{axis}"
            for axis, size in enumerate(kind.shape.dim)
        )
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
        specs.append(TensorSpec(tensor.name, shape, dtype))
    return tuple(specs)


def _load(source: Path, *, weights: bool) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(source), load_external_data=weights)
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        raise EngineError(f"{source}: cannot be read as an ONNX graph: {error}") from error
    if not model.graph.output:
        raise EngineError(f"{source}: cannot be read as an ONNX graph: it has no outputs")
    return model

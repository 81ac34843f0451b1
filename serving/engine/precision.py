"""Half precision, decided in the graph: strongly typed engines compute in the types that the graph is written in.

Weights and activations become float16, inputs and outputs stay float32, and operators whose half versions are known
to be wrong or absent (resizing, top-k, non-maximum suppression and the like) stay float32 between casts. Needs the
`onnx` package (the `engines` extra); offline only.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import onnxruntime

HALF_RECIPE = f"float16 by onnxruntime {onnxruntime.__version__}, float32 inputs and outputs"
"""Changes when the same graph would be cast to other bytes: part of every key under which a cast graph is kept."""

# Protobuf's own limit on one file; a larger graph keeps its weights beside it.
_ONE_FILE = 2**31 - 2**20


def cast_to_half(source: Path, destination: Path) -> None:
    """Write `source` in half precision to `destination` (and, where it would be too large, `<destination>.data`).

    Raises OSError, and what `onnx` raises for a file that is no graph.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(str(source))
    with warnings.catch_warnings():
        # It tells of every weight that is rounded to the least or largest half; `engines check` measures the result.
        warnings.simplefilter("ignore")
        half = convert_float_to_float16(model, keep_io_types=True)
    onnx.save_model(
        half,
        str(destination),
        save_as_external_data=half.ByteSize() > _ONE_FILE,
        location=f"{destination.name}.data",
    )

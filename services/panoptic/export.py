"""The segmenter's checkpoint as the ONNX graph the service runs: `python -m services.panoptic.export`.

Offline and cached; the service calls it at start, so running it by hand only moves the wait to a better moment.
"""

from __future__ import annotations

from pathlib import Path

from serving.weights import WeightStore
from serving.weights.yolo_export import exported_onnx

ARTIFACT = "yolo26n-seg"


def export(store: WeightStore) -> Path:
    """Where the graph is. Raises WeightsUnavailableError saying what to do when it cannot be had."""
    return exported_onnx(store, ARTIFACT)


if __name__ == "__main__":
    print(export(WeightStore()))

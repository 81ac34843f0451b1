"""The networks of PP-OCR as they are served against the files as published, and against themselves in company.

They are published as ONNX graphs alone: there is no PyTorch network to hold them against. What stands in its place is
the published file, unoptimised; what is served has its subnormal weights set to zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from services.ocr.prepare import prepared_model
from serving.engine import OnnxRuntimeEngine
from serving.weights import WeightStore

TOLERANCE = 1e-4
# Input heights and widths as the expert makes them, at their least.
NETWORKS = {"ppocrv6-det": (64, 128), "ppocrv6-rec": (48, 128), "ppocr-cls": (48, 192)}

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module", params=NETWORKS)
def artifact(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(artifact: str) -> Iterator[OnnxRuntimeEngine]:
    store = WeightStore()
    served = store.fetch(artifact) if artifact == "ppocr-cls" else prepared_model(store, artifact)
    opened = OnnxRuntimeEngine(served, threads=1)
    yield opened
    opened.close()


def pictures(artifact: str, count: int) -> NDArray[np.float32]:
    """Another word in each, on a little noise: where there is no text, all of a detector's answers are nearly zero."""
    height, width = NETWORKS[artifact]
    noise = np.random.default_rng(count).normal(scale=0.05, size=(count, 3, height, width))
    drawn = np.full((count, height, width), 255, np.uint8)
    for index, canvas in enumerate(drawn):
        place = (6, height // 2 + 10)
        cv2.putText(canvas, f"WORD{index}{count}", place, cv2.FONT_HERSHEY_SIMPLEX, 0.7, 0, 2)
    return (drawn[:, None] / 127.5 - 1 + noise).astype(np.float32)


def published(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])


def said(engine: OnnxRuntimeEngine, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    (answer,) = engine.run({"x": pixels}).values()
    return np.asarray(answer)


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_what_is_served_says_what_was_published(artifact: str, engine: OnnxRuntimeEngine, batch: int) -> None:
    pixels = pictures(artifact, batch)
    expected: Any = published(WeightStore().fetch(artifact)).run(None, {"x": pixels})[0]
    assert len(expected) == batch
    assert expected.std() > 1e-3
    np.testing.assert_allclose(said(engine, pixels), expected, atol=TOLERANCE, rtol=0)


def test_a_picture_is_answered_alike_alone_and_in_company(artifact: str, engine: OnnxRuntimeEngine) -> None:
    pixels = pictures(artifact, 8)
    together = said(engine, pixels)
    for index in range(8):
        alone = said(engine, pixels[index : index + 1])
        np.testing.assert_allclose(alone[0], together[index], atol=TOLERANCE, rtol=0)

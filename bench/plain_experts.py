"""The experts as a plain loop in this process: same graph, same pre- and post-processing, no server, no batcher.

What the served experts are held against. Each is built as its process builds it with default settings, but for engines
that count their own seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.timed_engine import TimedEngine
from services.detection.export import export as export_detection
from services.detection.model import DetectionParams, Detector
from services.ocr.model import OcrModel, OcrParams
from services.ocr.prepare import prepared_model, read_charset
from services.panoptic.export import export as export_panoptic
from services.panoptic.model import PanopticModel, PanopticParams
from services.scene_graph.model import SceneGraphModel, SceneGraphParams
from serving.engine import OnnxRuntimeEngine
from serving.image import decode_image
from serving.weights import WeightStore
from serving.weights.yolo_export import exported_onnx

CRAYON_GRID = (35, 35)
"""What the gateway asks the panoptic expert for, (rows, columns)."""


@dataclass(frozen=True)
class PlainRun:
    """Seconds of one picture: all of it; in the networks; and after the first of them was asked, outside of all."""

    wall_s: float
    engine_s: float
    postprocess_s: float

    @property
    def preprocess_s(self) -> float:
        """Seconds before the first of the networks was asked."""
        return self.wall_s - self.engine_s - self.postprocess_s


class PlainExpert:
    """One picture after the other through the stages of a model.

    Args:
        engines: all that the model runs on.
        preprocess: (H, W, 3) uint8 RGB to what `infer` takes.
        infer: a batch of one to one raw result.
        postprocess: that to the result.
    """

    def __init__(
        self,
        engines: Sequence[TimedEngine],
        preprocess: Callable[[NDArray[np.uint8]], Any],
        infer: Callable[[Sequence[Any]], Sequence[Any]],
        postprocess: Callable[[Any], Any],
    ) -> None:
        self._engines = tuple(engines)
        self._preprocess, self._infer, self._postprocess = preprocess, infer, postprocess

    def run(self, picture: bytes) -> PlainRun:
        """Everything that the expert would do for this file, but for the reply."""
        busy = self._busy_s()
        begun = time.perf_counter()
        prepared = self._preprocess(decode_image(picture))
        ready = time.perf_counter()
        (raw,) = self._infer([prepared])
        self._postprocess(raw)
        ended = time.perf_counter()
        engine_s = self._busy_s() - busy
        return PlainRun(ended - begun, engine_s, ended - ready - engine_s)

    def close(self) -> None:
        """Give the networks back."""
        for engine in self._engines:
            engine.close()

    def _busy_s(self) -> float:
        return sum(engine.seconds for engine in self._engines)


def plain_expert(name: str, store: WeightStore) -> PlainExpert:
    """The expert of that name. Raises KeyError for another name, WeightsUnavailableError."""
    return _PLAIN[name](store)


def _detection(store: WeightStore) -> PlainExpert:
    engine = TimedEngine(OnnxRuntimeEngine(export_detection(store)))
    model = Detector(engine)
    params = DetectionParams(score_threshold=0.25, max_detections=100)
    return PlainExpert(
        [engine],
        lambda image: model.preprocess(image, params),
        model.infer,
        lambda raw: model.postprocess(raw, params),
    )


def _panoptic(store: WeightStore) -> PlainExpert:
    engine = TimedEngine(OnnxRuntimeEngine(export_panoptic(store)))
    model = PanopticModel(engine)
    params = PanopticParams(0.25, 0.5, 0.5, 100, (CRAYON_GRID,))
    return PlainExpert(
        [engine],
        lambda image: model.preprocess(image, params),
        model.infer,
        lambda raw: model.postprocess(raw, params),
    )


def _scene_graph(store: WeightStore) -> PlainExpert:
    engine = TimedEngine(OnnxRuntimeEngine(exported_onnx(store, "yolo26n-seg")))
    model = SceneGraphModel(engine)
    params = SceneGraphParams()
    return PlainExpert([engine], model.preprocess, model.infer, lambda raw: model.postprocess(raw, params))


def _ocr(store: WeightStore) -> PlainExpert:
    recognizer = prepared_model(store, "ppocrv6-rec")
    engines = [
        TimedEngine(OnnxRuntimeEngine(path))
        for path in (prepared_model(store, "ppocrv6-det"), recognizer, store.fetch("ppocr-cls"))
    ]
    model = OcrModel(engines[0], engines[1], engines[2], read_charset(recognizer))
    params = OcrParams()
    return PlainExpert(
        engines,
        lambda image: model.preprocess(image, params),
        model.infer,
        lambda raw: model.postprocess(raw, params),
    )


_PLAIN: dict[str, Callable[[WeightStore], PlainExpert]] = {
    "panoptic": _panoptic,
    "detection": _detection,
    "scene_graph": _scene_graph,
    "ocr": _ocr,
}

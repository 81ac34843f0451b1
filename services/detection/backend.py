"""Which network detects: the settings into engines, a model, a search and what `Describe` says of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polysight.common.v1 import model_pb2
from polysight.vision.v1 import detection_pb2
from services.detection.closed_search import ClosedSearch
from services.detection.detector import AnyDetector, AnySearch
from services.detection.export import ARTIFACT, export
from services.detection.model import REVISION, DetectionParams, Detector
from services.detection.owlv2.words import Words, read_words
from services.detection.settings import DetectionSettings
from serving.coco import COCO_80
from serving.engine import Engine
from serving.engine.selection import open_engine
from serving.expert import Stages
from serving.telemetry.metrics import Metrics
from serving.weights import WeightStore, WeightsUnavailableError
from serving.yolo import INPUT_SIZE

_SURE = 0.25
_MOST = 300


@dataclass(frozen=True)
class Weights:
    """What a model was made from: a name, the file's SHA-256 in hexadecimal, an SPDX licence."""

    name: str
    sha256: str
    licence: str


@dataclass(frozen=True)
class Backend:
    """A model ready to serve. `engine` is the one that takes pictures. `search` makes the search of a process from its
    stages and metrics. `max_batch`: the most images that share an inference."""

    engine: Engine
    model: AnyDetector
    search: Callable[[Stages[Any, Any], Metrics], AnySearch]
    description: detection_pb2.DetectionServiceDescribeResponse
    max_batch: int
    warm_up: Callable[[], None]
    close: Callable[[], None]


def open_backend(settings: DetectionSettings, store: WeightStore) -> Backend:
    """The backend that `settings` name.

    Raises WeightsUnavailableError when its weights cannot be had, EngineError or ValueError when a graph is wrong or a
    word of the vocabulary cannot be read, OSError when its file cannot.
    """
    if settings.backend == "owlv2":
        # Loads the tokenizer's library, which the other backend does without.
        from services.detection.owlv2.backend import open_owlv2

        return open_owlv2(settings, store)
    if settings.backend == "yolo-world":
        return _yolo_world(settings)
    return _yolo(settings, store)


def describe(
    engine: Engine, model: Detector, defaults: DetectionParams, weights: Weights, words: str = ""
) -> detection_pb2.DetectionServiceDescribeResponse:
    """What `Describe` answers of YOLO. The input size is the largest; one side follows the picture's ratio. `words`:
    digest of labels that are not the weights' own."""
    version = "-".join(filter(None, (weights.sha256[:12], words[:12], f"r{REVISION}")))
    description = model_pb2.ModelDescription(
        model=model_pb2.ModelRef(name=weights.name, version=version, engine=engine.name),
        labels=model.labels,
        vocabulary_size=len(model.labels),
        open_vocabulary=False,
        input_width=INPUT_SIZE,
        input_height=INPUT_SIZE,
        thresholds={"score_threshold": defaults.score_threshold, "iou_threshold": defaults.iou_threshold},
        max_batch_size=engine.max_batch,
        weights=[
            model_pb2.WeightsInfo(artifact=weights.name, sha256=weights.sha256, licence=weights.licence)
        ],
    )
    return detection_pb2.DetectionServiceDescribeResponse(
        description=description, profiles=[model_pb2.PROFILE_SERVING]
    )


def _yolo(settings: DetectionSettings, store: WeightStore) -> Backend:
    info = store.licence(ARTIFACT)
    return _closed(settings, export(store), COCO_80, Weights(info.name, info.sha256, info.licence))


def _yolo_world(settings: DetectionSettings) -> Backend:
    """A YOLO whose classes are words that its graph was made with."""
    graph, path = settings.model_path, settings.vocabulary_path
    if graph is None or path is None or not graph.is_file():
        raise WeightsUnavailableError("yolo-world", f"DETECTION_MODEL_PATH: there is no file {graph}")
    with graph.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    words = Words(path.stem, read_words(path))
    weights = Weights(graph.stem, digest, settings.model_licence)
    return _closed(settings, graph, words.names, weights, words.digest)


def _closed(
    settings: DetectionSettings, graph: Path, labels: tuple[str, ...], weights: Weights, words: str = ""
) -> Backend:
    engine = open_engine(weights.name, graph, settings, max_batch=settings.max_batch)
    model = Detector(engine, labels=labels, rectangular=settings.rectangular)
    defaults = DetectionParams(
        _SURE if settings.score_threshold is None else settings.score_threshold,
        _MOST if settings.max_detections is None else settings.max_detections,
    )
    return Backend(
        engine=engine,
        model=model,
        search=lambda stages, metrics: ClosedSearch(model.labels, defaults),
        description=describe(engine, model, defaults, weights, words),
        max_batch=min(settings.max_batch, engine.max_batch),
        warm_up=model.warm_up,
        close=engine.close,
    )

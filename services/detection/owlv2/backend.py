"""OWLv2 made ready to serve: an exported folder and a list of words into engines, detector and search."""

from __future__ import annotations

import hashlib
from typing import Any

from polysight.common.v1 import model_pb2
from polysight.vision.v1 import detection_pb2
from services.detection.backend import Backend
from services.detection.owlv2.bundle import Bundle
from services.detection.owlv2.model import REVISION, Owlv2Detector, Owlv2Params
from services.detection.owlv2.search import Defaults, OpenSearch, OwnWords
from services.detection.owlv2.text import PhraseCache, TextTower, own_queries, vocabulary_key
from services.detection.owlv2.tokenizer import PhraseTokenizer
from services.detection.owlv2.words import BUILT_IN, Words, read_words
from services.detection.settings import DetectionSettings
from serving.engine import Engine
from serving.engine.selection import open_engine
from serving.expert import Stages
from serving.telemetry.metrics import Metrics
from serving.weights import WeightStore, WeightsUnavailableError

_SURE = 0.1
"""The published least score; what it is for is narrowed down by whoever puts detections into words."""

_MOST = 300
_ALL = 4096
_EXAMPLE_IOU = 0.3
_PHRASES_PER_RUN = 64


def open_owlv2(settings: DetectionSettings, store: WeightStore) -> Backend:
    """Reads the server's own vocabulary if no process has yet. Raises as `open_backend`."""
    if settings.model_path is None:
        raise WeightsUnavailableError("owlv2", "DETECTION_MODEL_PATH is not set")
    bundle, words = Bundle(settings.model_path), _words(settings)
    sheet = bundle.sheet
    tokenizer = PhraseTokenizer(
        bundle.tokenizer, max_tokens=sheet.max_tokens, begin_id=sheet.begin_id, end_id=sheet.end_id
    )
    tower = TextTower(
        open_engine(f"{bundle.name}-text", bundle.text, settings, max_batch=_PHRASES_PER_RUN), tokenizer
    )
    own = OwnWords(
        words.names, own_queries(words, bundle, tower, tokenizer, store), vocabulary_version(words, bundle)
    )
    engine = open_engine(f"{bundle.name}-image", bundle.image, settings, max_batch=settings.max_batch)
    detector = Owlv2Detector(engine, labels=words.names)
    if detector.dimensions != tower.dimensions:
        raise ValueError(
            f"{bundle.name}: one half speaks {detector.dimensions} dimensions, the other {tower.dimensions}"
        )
    serving, reference = _defaults(settings)

    def search(stages: Stages[Any, Any], metrics: Metrics) -> OpenSearch:
        phrases = PhraseCache(tower, tokenizer, size=settings.phrase_cache, metrics=metrics)
        return OpenSearch(detector, stages, phrases, own, serving=serving, reference=reference)

    def warm_up() -> None:
        detector.warm_up()
        tower.warm_up()

    def close() -> None:
        engine.close()
        tower.close()

    return Backend(
        engine=engine,
        model=detector,
        search=search,
        description=_describe(engine, detector, serving, bundle, words, own, settings.model_licence),
        max_batch=min(settings.max_batch, engine.max_batch),
        warm_up=warm_up,
        close=close,
    )


def vocabulary_version(words: Words, bundle: Bundle) -> str:
    """Of the embeddings that words have in this network: twelve hexadecimal digits."""
    return hashlib.sha256(vocabulary_key(words, bundle).encode()).hexdigest()[:12]


def _words(settings: DetectionSettings) -> Words:
    path = settings.vocabulary_path or BUILT_IN
    return Words(path.stem, read_words(path), settings.vocabulary_template)


def _defaults(settings: DetectionSettings) -> tuple[Defaults, Defaults]:
    serving = Owlv2Params(
        _SURE if settings.score_threshold is None else settings.score_threshold,
        _MOST if settings.max_detections is None else settings.max_detections,
    )
    reference = Owlv2Params(_SURE, _ALL, reference=True)
    return Defaults(serving, _EXAMPLE_IOU), Defaults(reference, _EXAMPLE_IOU)


def _describe(
    engine: Engine,
    detector: Owlv2Detector,
    defaults: Defaults,
    bundle: Bundle,
    words: Words,
    own: OwnWords,
    licence: str,
) -> detection_pb2.DetectionServiceDescribeResponse:
    version = f"{bundle.digest[:12]}-{own.version}-r{REVISION}"
    return detection_pb2.DetectionServiceDescribeResponse(
        description=model_pb2.ModelDescription(
            model=model_pb2.ModelRef(name=bundle.name, version=version, engine=engine.name),
            labels=words.names,
            vocabulary_size=len(words.names),
            open_vocabulary=True,
            input_width=detector.input_size,
            input_height=detector.input_size,
            thresholds={
                "score_threshold": defaults.params.score_threshold,
                "iou_threshold": defaults.params.iou_threshold,
            },
            max_batch_size=engine.max_batch,
            weights=[
                model_pb2.WeightsInfo(artifact=f"{bundle.name}/{name}", sha256=sha256, licence=licence)
                for name, sha256 in sorted(bundle.sheet.sha256.items())
                if name.endswith(".onnx")
            ],
        ),
        own_vocabulary=detection_pb2.OwnVocabulary(
            name=words.name,
            version=own.version,
            size=len(words.names),
            distinct=len(own.queries.ids),
            template=words.template,
            max_tokens=bundle.sheet.max_tokens,
        ),
        class_agnostic=True,
        image_queries=True,
        profiles=[model_pb2.PROFILE_SERVING, model_pb2.PROFILE_REFERENCE],
    )

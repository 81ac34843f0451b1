"""Which network segments: the settings into an engine, a model, its thresholds and what `Describe` says of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from polysight.common.v1 import model_pb2
from services.panoptic.eomt.model import REVISION as EOMT_REVISION
from services.panoptic.eomt.model import EomtModel
from services.panoptic.export import ARTIFACT, export
from services.panoptic.mask2former.model import REVISION as MASK2FORMER_REVISION
from services.panoptic.mask2former.model import Mask2FormerModel
from services.panoptic.mask2former.published import REFERENCE, SERVING, Thresholds
from services.panoptic.model import REVISION, PanopticModel, PanopticParams
from services.panoptic.segmenter import AnySegmenter
from services.panoptic.settings import PanopticSettings
from serving.coco import THINGS, UNLABELLED_ID
from serving.engine import Engine
from serving.engine.selection import open_engine
from serving.weights import WeightStore, WeightsUnavailableError
from serving.yolo import INPUT_SIZE

_YOLO = Thresholds(score=0.25, mask=0.5, overlap=0.5)
_EOMT = Thresholds(score=0.8, mask=0.5, overlap=0.8)
_ALL_SEGMENTS = 1000


@dataclass(frozen=True)
class Weights:
    """What a model was made from: a name, the file's SHA-256 in hexadecimal, an SPDX licence."""

    name: str
    sha256: str
    licence: str


@dataclass(frozen=True)
class Backend:
    """A model ready to serve. `reference_defaults`: None where there is no published system to follow."""

    engine: Engine
    model: AnySegmenter
    defaults: PanopticParams
    reference_defaults: PanopticParams | None
    description: model_pb2.ModelDescription


def open_backend(settings: PanopticSettings, store: WeightStore) -> Backend:
    """The backend that `settings` name.

    Raises WeightsUnavailableError when its weights cannot be had, EngineError or ValueError when the graph is wrong.
    """
    if settings.backend == "mask2former":
        return _mask2former(settings)
    if settings.backend == "eomt":
        return _eomt(settings)
    return _yolo(settings, store)


def describe(
    engine: Engine,
    model: AnySegmenter,
    defaults: PanopticParams,
    weights: Weights,
    *,
    revision: int = REVISION,
    input_size: tuple[int, int] = (INPUT_SIZE, INPUT_SIZE),
) -> model_pb2.ModelDescription:
    """What `Describe` answers. `input_size`: (height, width), the largest where a side follows the picture's ratio."""
    return model_pb2.ModelDescription(
        model=model_pb2.ModelRef(
            name=weights.name, version=f"{weights.sha256[:12]}-r{revision}", engine=engine.name
        ),
        labels=model.labels,
        vocabulary_size=len(model.labels),
        open_vocabulary=False,
        input_width=input_size[1],
        input_height=input_size[0],
        thresholds={
            "score_threshold": defaults.score_threshold,
            "mask_threshold": defaults.mask_threshold,
            "overlap_threshold": defaults.overlap_threshold,
        },
        max_batch_size=engine.max_batch,
        weights=[
            model_pb2.WeightsInfo(artifact=weights.name, sha256=weights.sha256, licence=weights.licence)
        ],
    )


def _yolo(settings: PanopticSettings, store: WeightStore) -> Backend:
    engine = open_engine(ARTIFACT, export(store), settings, max_batch=settings.max_batch)
    model = PanopticModel(engine, rectangular=settings.rectangular)
    info = store.licence(ARTIFACT)
    defaults = _defaults(settings, _YOLO)
    weights = Weights(info.name, info.sha256, info.licence)
    return Backend(engine, model, defaults, None, describe(engine, model, defaults, weights))


def _mask2former(settings: PanopticSettings) -> Backend:
    path, digest = _graph(settings)
    engine = open_engine(path.stem, path, settings, max_batch=settings.max_batch)
    model = Mask2FormerModel(engine, fuse=_fused(settings))
    defaults = _defaults(settings, SERVING)
    reference = PanopticParams(
        REFERENCE.score, REFERENCE.mask, REFERENCE.overlap, _ALL_SEGMENTS, reference=True
    )
    description = describe(
        engine,
        model,
        defaults,
        Weights(path.stem, digest, settings.model_licence),
        revision=MASK2FORMER_REVISION,
        input_size=model.input_size,
    )
    return Backend(engine, model, defaults, reference, description)


def _eomt(settings: PanopticSettings) -> Backend:
    path, digest = _graph(settings)
    engine = open_engine(path.stem, path, settings, max_batch=settings.max_batch)
    model = EomtModel(engine, fuse=_fused(settings))
    defaults = _defaults(settings, _EOMT)
    description = describe(
        engine,
        model,
        defaults,
        Weights(path.stem, digest, settings.model_licence),
        revision=EOMT_REVISION,
        input_size=model.input_size,
    )
    return Backend(engine, model, defaults, None, description)


def _graph(settings: PanopticSettings) -> tuple[Path, str]:
    """The graph that the settings name, and its SHA-256. Raises WeightsUnavailableError when it is not there."""
    path = settings.model_path
    if path is None or not path.is_file():
        raise WeightsUnavailableError(settings.backend, f"PANOPTIC_MODEL_PATH: there is no file {path}")
    with path.open("rb") as graph:
        return path, hashlib.file_digest(graph, "sha256").hexdigest()


def _fused(settings: PanopticSettings) -> range:
    """The classes all of whose segments become one."""
    return range(THINGS, UNLABELLED_ID if settings.fuse_stuff else THINGS)


def _defaults(settings: PanopticSettings, own: Thresholds) -> PanopticParams:
    def chosen(setting: float | None, otherwise: float) -> float:
        return otherwise if setting is None else setting

    return PanopticParams(
        score_threshold=chosen(settings.score_threshold, own.score),
        mask_threshold=chosen(settings.mask_threshold, own.mask),
        overlap_threshold=chosen(settings.overlap_threshold, own.overlap),
        max_segments=settings.max_segments,
    )

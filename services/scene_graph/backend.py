"""What relates: the settings into engines, a model, its thresholds and what `Describe` says of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from polysight.common.v1 import model_pb2
from services.scene_graph.export import ARTIFACT
from services.scene_graph.fusion import FUSION_VERSION, FusedModel, FusedParams, Prepared
from services.scene_graph.model import SceneGraphModel, SceneGraphParams
from services.scene_graph.psgtr import model as psgtr
from services.scene_graph.psgtr.model import PsgtrModel
from services.scene_graph.relater import AnyParams, AnyRelater
from services.scene_graph.rules import RULES_VERSION
from services.scene_graph.service import describe
from services.scene_graph.settings import SceneGraphSettings
from serving.engine import Engine
from serving.engine.selection import open_engine
from serving.expert import Stages, by_pixels, by_shape
from serving.preprocess.selection import decoder_for
from serving.telemetry.metrics import Metrics
from serving.weights import WeightStore, WeightsUnavailableError
from serving.weights.yolo_export import exported_onnx


@dataclass(frozen=True)
class Backend:
    """A model ready to serve. `reference_defaults`: None where there is no published system to follow. `cost` and
    `group` are the batcher's, of what the model prepares. `engines`: those that take pictures.
    """

    model: AnyRelater
    defaults: AnyParams
    reference_defaults: AnyParams | None
    description: model_pb2.ModelDescription
    cost: Callable[[Any], float] = by_pixels
    group: Callable[[Any], Hashable] = by_shape
    engines: tuple[Engine, ...] = ()

    def stages(self, settings: SceneGraphSettings, metrics: Metrics) -> Stages[Any, Any]:
        """The way of a picture through the model. Raises EngineError where a device that should prepare does not."""
        return Stages(
            self.model.infer,
            metrics=metrics,
            max_batch=min(settings.max_batch, self.model.max_batch),
            max_queue=settings.max_queue,
            workers=settings.workers,
            cost=self.cost,
            group=self.group,
            decode=decoder_for(settings, *self.engines),
        )


def open_backend(settings: SceneGraphSettings, store: WeightStore) -> Backend:
    """The backend that `settings` name; blocking.

    Raises WeightsUnavailableError when its weights cannot be had, EngineError or ValueError when a graph is wrong.
    """
    if settings.backend == "geometric":
        return _geometric(settings, store)
    if settings.backend == "psgtr":
        return _psgtr(settings)
    return _fused(settings, store)


def _geometric(settings: SceneGraphSettings, store: WeightStore) -> Backend:
    info = store.licence(ARTIFACT)
    engine = open_engine(ARTIFACT, exported_onnx(store, ARTIFACT), settings, max_batch=settings.max_batch)
    defaults = _defaults(settings, SceneGraphParams())
    description = describe(
        model=model_pb2.ModelRef(
            name="geometric", version=f"{info.version}+{RULES_VERSION}", engine=engine.name
        ),
        defaults=defaults,
        max_batch=engine.max_batch,
        weights=[model_pb2.WeightsInfo(artifact=info.name, sha256=info.sha256, licence=info.licence)],
    )
    return Backend(SceneGraphModel(engine), defaults, None, description, engines=(engine,))


def _psgtr(settings: SceneGraphSettings) -> Backend:
    path = settings.model_path
    if path is None or not path.is_file():
        raise WeightsUnavailableError("psgtr", f"SCENE_GRAPH_MODEL_PATH: there is no file {path}")
    engine = open_engine(path.stem, path, settings, max_batch=settings.max_batch)
    model = PsgtrModel(engine, longer=settings.longer_side, shorter=settings.shorter_side)
    defaults = _defaults(settings, psgtr.SERVING)
    with path.open("rb") as graph:
        digest = hashlib.file_digest(graph, "sha256").hexdigest()
    description = describe(
        model=model_pb2.ModelRef(name="psgtr", version=f"{digest[:12]}+{psgtr.REVISION}", engine=engine.name),
        defaults=defaults,
        max_batch=engine.max_batch,
        weights=[model_pb2.WeightsInfo(artifact=path.stem, sha256=digest, licence=settings.model_licence)],
        input_size=model.input_size,
    )
    return Backend(model, defaults, psgtr.REFERENCE, description, engines=(engine,))


def _fused(settings: SceneGraphSettings, store: WeightStore) -> Backend:
    trained, geometric = _psgtr(settings), _geometric(settings, store)
    one, other = trained.description.model, geometric.description.model
    description = describe(
        model=model_pb2.ModelRef(
            name=f"{one.name}+{other.name}",
            version=f"{one.version}+{other.version}+{FUSION_VERSION}",
            engine=one.engine,
        ),
        defaults=trained.defaults,
        max_batch=trained.description.max_batch_size,
        weights=[*trained.description.weights, *geometric.description.weights],
        input_size=(trained.description.input_height, trained.description.input_width),
    )
    return Backend(
        FusedModel(trained.model, geometric.model),
        FusedParams(trained.defaults, geometric.defaults),
        FusedParams(psgtr.REFERENCE, geometric.defaults),
        description,
        cost=fused_cost,
        group=fused_group,
        engines=trained.engines + geometric.engines,
    )


def fused_cost(prepared: Prepared) -> float:
    """The batcher's `cost` where two networks look: megapixels of both inputs."""
    return sum(by_pixels(part) for part in prepared.parts)


def fused_group(prepared: Prepared) -> Hashable:
    """The batcher's `group` where two networks look: shapes must agree in both, and one network may be left out."""
    return tuple(by_shape(part) for part in prepared.parts)


def _defaults(settings: SceneGraphSettings, own: SceneGraphParams) -> SceneGraphParams:
    chosen = {
        name: value
        for name in ("object_threshold", "relation_threshold", "max_relations")
        if (value := getattr(settings, name)) is not None
    }
    return own.asked(chosen)

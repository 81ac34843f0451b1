"""The detection process: `python -m services.detection`. Settings: `DETECTION_*`, see `settings.py`."""

from __future__ import annotations

import os

# Threads that spin while they wait starve the other processes of a small machine; the libraries below read this once.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import asyncio
import sys

import cv2

from polysight.common.v1 import model_pb2
from polysight.vision.v1 import detection_pb2_grpc
from services.detection.export import ARTIFACT, export
from services.detection.model import REVISION, DetectionParams, Detector
from services.detection.service import FULL_NAME, DetectionServicer
from services.detection.settings import DetectionSettings
from serving.engine import Engine, OnnxRuntimeEngine
from serving.engine.providers import onnxruntime_providers
from serving.expert import Stages
from serving.server import Servicer, run, serve
from serving.settings import load_settings
from serving.telemetry.logs import configure_logs
from serving.telemetry.metrics import Metrics
from serving.weights import ArtifactInfo, WeightStore, WeightsUnavailableError
from serving.yolo import INPUT_SIZE

SERVICE = "detection"


def describe(
    engine: Engine, model: Detector, defaults: DetectionParams, weights: ArtifactInfo
) -> model_pb2.ModelDescription:
    """What `Describe` answers. The input size is the largest; one side follows the picture's ratio."""
    version = f"{weights.sha256[:12]}-r{REVISION}"
    return model_pb2.ModelDescription(
        model=model_pb2.ModelRef(name=weights.name, version=version, engine=engine.name),
        labels=model.labels,
        vocabulary_size=len(model.labels),
        open_vocabulary=False,
        input_width=INPUT_SIZE,
        input_height=INPUT_SIZE,
        thresholds={"score_threshold": defaults.score_threshold},
        max_batch_size=engine.max_batch,
        weights=[
            model_pb2.WeightsInfo(artifact=weights.name, sha256=weights.sha256, licence=weights.licence)
        ],
    )


def main() -> None:
    """Fetch and export the weights if they are not cached, then serve until SIGTERM."""
    settings = load_settings(DetectionSettings)
    configure_logs(SERVICE, settings.log_level)
    cv2.setNumThreads(1)  # its pool would compete with the engine's threads for a millisecond's work
    store = WeightStore()
    try:
        graph = export(store)
    except WeightsUnavailableError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    engine = OnnxRuntimeEngine(
        graph,
        threads=settings.threads,
        max_batch=settings.max_batch,
        providers=onnxruntime_providers(settings.providers),
    )
    model = Detector(engine, rectangular=settings.rectangular)
    metrics = Metrics(SERVICE)
    stages = Stages(
        model.infer,
        metrics=metrics,
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        workers=settings.workers,
    )
    defaults = DetectionParams(settings.score_threshold, settings.max_detections)
    description = describe(engine, model, defaults, store.licence(ARTIFACT))
    servicer = DetectionServicer(model, stages, description=description, defaults=defaults)

    async def close() -> None:
        await stages.close()
        engine.close()

    run(
        serve(
            service=SERVICE,
            settings=settings,
            servicers=[
                Servicer(
                    FULL_NAME,
                    lambda server: detection_pb2_grpc.add_DetectionServiceServicer_to_server(
                        servicer, server
                    ),
                )
            ],
            metrics=metrics,
            warm_up=lambda: asyncio.to_thread(model.warm_up),
            close=close,
        )
    )


if __name__ == "__main__":
    main()

"""The panoptic process: `python -m services.panoptic`. Settings: `PANOPTIC_*`, see `settings.py`."""

from __future__ import annotations

import os

# Threads that spin while they wait starve the other processes of a small machine; the libraries below read this once.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import asyncio
import sys

import cv2

from polysight.common.v1 import model_pb2
from polysight.vision.v1 import panoptic_pb2_grpc
from services.panoptic.export import ARTIFACT, export
from services.panoptic.model import REVISION, PanopticModel, PanopticParams
from services.panoptic.service import FULL_NAME, PanopticServicer
from services.panoptic.settings import PanopticSettings
from serving.engine import Engine, OnnxRuntimeEngine
from serving.expert import Stages
from serving.server import Servicer, run, serve
from serving.settings import load_settings
from serving.telemetry.logs import configure_logs
from serving.telemetry.metrics import Metrics
from serving.weights import ArtifactInfo, WeightStore, WeightsUnavailableError
from serving.yolo import INPUT_SIZE

SERVICE = "panoptic"


def describe(
    engine: Engine, model: PanopticModel, defaults: PanopticParams, weights: ArtifactInfo
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


def main() -> None:
    """Fetch and export the weights if they are not cached, then serve until SIGTERM."""
    settings = load_settings(PanopticSettings)
    configure_logs(SERVICE, settings.log_level)
    cv2.setNumThreads(1)  # its pool would compete with the engine's threads for a millisecond's work
    store = WeightStore()
    try:
        graph = export(store)
    except WeightsUnavailableError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    engine = OnnxRuntimeEngine(graph, threads=settings.threads, max_batch=settings.max_batch)
    model = PanopticModel(engine, rectangular=settings.rectangular)
    metrics = Metrics(SERVICE)
    stages = Stages(
        model.infer,
        metrics=metrics,
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        workers=settings.workers,
    )
    defaults = PanopticParams(
        score_threshold=settings.score_threshold,
        mask_threshold=settings.mask_threshold,
        overlap_threshold=settings.overlap_threshold,
        max_segments=settings.max_segments,
    )
    description = describe(engine, model, defaults, store.licence(ARTIFACT))
    servicer = PanopticServicer(model, stages, description=description, defaults=defaults)

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
                    lambda server: panoptic_pb2_grpc.add_PanopticServiceServicer_to_server(servicer, server),
                )
            ],
            metrics=metrics,
            warm_up=lambda: asyncio.to_thread(model.warm_up),
            close=close,
        )
    )


if __name__ == "__main__":
    main()

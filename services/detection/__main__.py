"""The detection process: `python -m services.detection`. Settings: `DETECTION_*`, see `settings.py`."""

from __future__ import annotations

import os

# Threads that spin while they wait starve the other processes of a small machine; the libraries below read this once.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import asyncio
import sys

import cv2

from polysight.vision.v1 import detection_pb2_grpc
from services.detection.backend import open_backend
from services.detection.service import FULL_NAME, DetectionServicer
from services.detection.settings import DetectionSettings
from serving.engine import EngineError
from serving.expert import Stages, by_pixels, by_shape
from serving.preprocess.selection import decoder_for
from serving.server import Servicer, run, serve
from serving.settings import load_settings
from serving.telemetry.logs import configure_logs
from serving.telemetry.metrics import Metrics
from serving.weights import WeightStore, WeightsUnavailableError

SERVICE = "detection"


def main() -> None:
    """Fetch and export the weights if they are not cached, then serve until SIGTERM."""
    settings = load_settings(DetectionSettings)
    configure_logs(SERVICE, settings.log_level)
    cv2.setNumThreads(1)  # its pool would compete with the engine's threads for a millisecond's work
    try:
        backend = open_backend(settings, WeightStore())
        decode = decoder_for(settings, backend.engine)
    except (WeightsUnavailableError, EngineError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    metrics = Metrics(SERVICE)
    stages = Stages(
        backend.model.infer,
        metrics=metrics,
        max_batch=backend.max_batch,
        max_queue=settings.max_queue,
        workers=settings.workers,
        cost=by_pixels,
        group=by_shape,
        decode=decode,
    )
    search = backend.search(stages, metrics)
    servicer = DetectionServicer(backend.model, stages, search, description=backend.description)

    async def close() -> None:
        await search.close()
        await stages.close()
        backend.close()

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
            warm_up=lambda: asyncio.to_thread(backend.warm_up),
            close=close,
        )
    )


if __name__ == "__main__":
    main()

"""The panoptic process: `python -m services.panoptic`. Settings: `PANOPTIC_*`, see `settings.py`."""

from __future__ import annotations

import os

# Threads that spin while they wait starve the other processes of a small machine; the libraries below read this once.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Requests are what runs in parallel here: masks are many small matrix products, whose threads would only wait for each
# other on busy cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import asyncio
import sys

import cv2

from polysight.vision.v1 import panoptic_pb2_grpc
from services.panoptic.backend import open_backend
from services.panoptic.service import FULL_NAME, PanopticServicer
from services.panoptic.settings import PanopticSettings
from serving.engine import EngineError
from serving.expert import Stages, by_pixels, by_shape
from serving.preprocess.selection import decoder_for
from serving.server import Servicer, run, serve
from serving.settings import load_settings
from serving.telemetry.logs import configure_logs
from serving.telemetry.metrics import Metrics
from serving.weights import WeightStore, WeightsUnavailableError

SERVICE = "panoptic"


def main() -> None:
    """Fetch and export the weights if they are not cached, then serve until SIGTERM."""
    settings = load_settings(PanopticSettings)
    configure_logs(SERVICE, settings.log_level)
    cv2.setNumThreads(1)  # its pool would compete with the engine's threads for a millisecond's work
    try:
        backend = open_backend(settings, WeightStore())
        decode = decoder_for(settings, backend.engine)
    except (WeightsUnavailableError, EngineError, ValueError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    model, metrics = backend.model, Metrics(SERVICE)
    stages = Stages(
        model.infer,
        metrics=metrics,
        max_batch=min(settings.max_batch, backend.engine.max_batch),
        max_queue=settings.max_queue,
        workers=settings.workers,
        cost=by_pixels,
        group=by_shape,
        decode=decode,
    )
    servicer = PanopticServicer(
        model,
        stages,
        description=backend.description,
        defaults=backend.defaults,
        reference_defaults=backend.reference_defaults,
    )

    async def close() -> None:
        await stages.close()
        backend.engine.close()

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

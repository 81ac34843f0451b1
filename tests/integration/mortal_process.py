"""A detection process whose engine dies, for `test_device_lost.py`: real service, stages and server, no network.

python mortal_process.py [stuck]    where "stuck" blocks the whole process when it closes
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray
from pydantic_settings import SettingsConfigDict

from polysight.vision.v1 import detection_pb2_grpc
from services.detection.backend import Weights, describe
from services.detection.closed_search import ClosedSearch
from services.detection.model import DetectionParams, Detector
from services.detection.service import FULL_NAME, DetectionServicer
from serving.engine import DeviceLostError, EngineError, FakeEngine, TensorSpec
from serving.expert import Stages
from serving.server import Servicer, run, serve
from serving.settings import ServerSettings, load_settings
from serving.telemetry.metrics import Metrics

FATAL, FAULTY = 200, 100
"""Grey levels of a picture that the device does not survive, and of one that fails its batch."""

BATCH_S = 0.2


class MortalEngine:
    """What `compute` of a `FakeEngine` does: nothing found, slowly, until a fatal picture comes."""

    def __init__(self) -> None:
        self._dead = False

    def __call__(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        if self._dead:
            raise DeviceLostError("it is lost already")
        time.sleep(BATCH_S)
        images = inputs["images"]
        levels = np.rint(images[:, 0, images.shape[2] // 2, images.shape[3] // 2] * 255)
        if (levels == FATAL).any():
            self._dead = True
            raise DeviceLostError("an illegal memory access was encountered")
        if (levels == FAULTY).any():
            raise EngineError("this batch did not work")
        return {"output0": np.zeros((len(images), 84, 1), np.float32)}


class Settings(ServerSettings):
    """Of the process under test."""

    model_config = SettingsConfigDict(env_prefix="DETECTION_")


async def main() -> int:
    """Wire and serve."""
    engine = FakeEngine(
        [TensorSpec("images", ("batch", 3, "height", "width"), "float32")],
        [TensorSpec("output0", ("batch", 84, "anchors"), "float32")],
        MortalEngine(),
        max_batch=1,
    )
    model, metrics, defaults = Detector(engine), Metrics("detection"), DetectionParams(0.5, 10)
    stages = Stages(model.infer, metrics=metrics, max_batch=1, max_queue=64)
    servicer = DetectionServicer(
        model,
        stages,
        ClosedSearch(model.labels, defaults),
        description=describe(engine, model, defaults, Weights("mortal", "0" * 64, "Apache-2.0")),
    )

    async def close() -> None:
        await stages.close()
        if sys.argv[1:] == ["stuck"]:
            time.sleep(600)  # noqa: ASYNC251 - as a driver would that waits for a GPU that is gone

    return await serve(
        service="detection",
        settings=load_settings(Settings),
        servicers=[
            Servicer(FULL_NAME, partial(detection_pb2_grpc.add_DetectionServiceServicer_to_server, servicer))
        ],
        metrics=metrics,
        warm_up=lambda: asyncio.to_thread(model.warm_up),
        close=close,
    )


if __name__ == "__main__":
    run(main())

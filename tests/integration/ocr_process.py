"""A server process for the life-cycle tests: an OCR service that sleeps for as many seconds as the image says.

python ocr_process.py WARM_UP    where WARM_UP is seconds, or "fail", or "stuck" (a thread that cannot be cancelled)
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import grpc
from pydantic_settings import SettingsConfigDict

from polysight.vision.v1 import ocr_pb2, ocr_pb2_grpc
from serving.server import Servicer, run, serve
from serving.settings import ServerSettings, load_settings
from serving.telemetry.metrics import Metrics


class Settings(ServerSettings):
    """Of the process under test."""

    model_config = SettingsConfigDict(env_prefix="OCR_")


class SleepyOcr(ocr_pb2_grpc.OcrServiceServicer):
    """Sleeps, then answers with the number of the request in the width."""

    async def RecognizeText(
        self, request: ocr_pb2.RecognizeTextRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ocr_pb2.RecognizeTextResponse:
        seconds, number = request.image.data.decode().split()
        await asyncio.sleep(float(seconds))
        return ocr_pb2.RecognizeTextResponse(image_width=int(number))

    async def Describe(
        self, request: ocr_pb2.OcrServiceDescribeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ocr_pb2.OcrServiceDescribeResponse:
        return ocr_pb2.OcrServiceDescribeResponse()


async def warm_up() -> None:
    """As the argument says."""
    if sys.argv[1] == "fail":
        raise RuntimeError("no weights")
    if sys.argv[1] == "stuck":
        await asyncio.to_thread(time.sleep, 60)
    await asyncio.sleep(float(sys.argv[1]))


async def close() -> None:
    """Leave a trace, so that a test can see that closing happened, and after what."""
    print("closed", flush=True)


if __name__ == "__main__":
    run(
        serve(
            service="ocr",
            settings=load_settings(Settings),
            servicers=[
                Servicer(
                    "polysight.vision.v1.OcrService",
                    lambda server: ocr_pb2_grpc.add_OcrServiceServicer_to_server(SleepyOcr(), server),
                )
            ],
            metrics=Metrics("ocr"),
            warm_up=warm_up,
            close=close,
        )
    )

"""The OCR process: `python -m services.ocr`. Settings: `services.ocr.settings`, prefix `OCR_`."""

from __future__ import annotations

import os

# Waiting threads that spin starve the other processes of a small machine; read when numeric libraries load.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

from polysight.common.v1 import model_pb2
from polysight.vision.v1 import ocr_pb2_grpc
from services.ocr.binarization import DbSettings
from services.ocr.model import Limits, OcrModel, OcrParams
from services.ocr.prepare import file_digest, prepared_file, prepared_model, read_charset
from services.ocr.service import FULL_NAME, OcrExpert, OcrService, describe
from services.ocr.settings import OcrSettings
from services.ocr.stages import OcrStages
from serving.engine import Engine
from serving.engine.selection import open_engine
from serving.preprocess.selection import decoder_for
from serving.server import Servicer, run, serve
from serving.settings import load_settings
from serving.telemetry.metrics import Metrics
from serving.weights import WeightStore

DETECTOR, RECOGNIZER, CLASSIFIER = "ppocrv6-det", "ppocrv6-rec", "ppocr-cls"
# Raise the number when pre- or post-processing changes what comes out.
NAME, PROCESSING = "ppocrv6-small", 1


def load(settings: OcrSettings, store: WeightStore, metrics: Metrics) -> OcrExpert:
    """Fetch the weights, build everything that answers, and warm it up.

    Blocking. Raises WeightsUnavailableError when they cannot be had, ValueError or OnnxFormatError when a file given by
    path is no fitting network.
    """
    detector_path, detector_weights = _checkpoint(settings.detector_path, DETECTOR, settings, store)
    recognizer_path, recognizer_weights = _checkpoint(settings.recognizer_path, RECOGNIZER, settings, store)
    weights = [detector_weights, recognizer_weights, _published(CLASSIFIER, store)]
    charset = read_charset(recognizer_path, settings.charset_path)

    def network(graph: str, path: Path, max_batch: int) -> Engine:
        return open_engine(graph, path, settings, max_batch=max_batch)

    detector = network(detector_weights.artifact, detector_path, settings.max_batch)
    model = OcrModel(
        detector,
        network(recognizer_weights.artifact, recognizer_path, settings.max_crops),
        network(CLASSIFIER, store.fetch(CLASSIFIER), settings.max_crops),
        charset,
        limits=Limits(min_side=settings.min_side, max_side=settings.max_side),
        db=DbSettings(max_regions=settings.max_lines),
    )
    defaults = OcrParams(settings.min_confidence, settings.min_region_score, settings.use_angle)
    name = NAME if settings.recognizer_path is None else recognizer_weights.artifact
    description = describe(
        model=model_pb2.ModelRef(name=name, version=_version(weights), engine=detector.name),
        charset=charset,
        defaults=defaults,
        max_batch=settings.max_batch,
        weights=weights,
    )
    stages = OcrStages(
        model,
        metrics=metrics,
        max_batch=settings.max_batch,
        max_lines=settings.max_crops,
        max_queue=settings.max_queue,
        workers=settings.workers,
        decode=decoder_for(settings, detector),
    )
    model.warm_up(sorted({1, settings.max_batch}))
    return OcrExpert(model, stages, defaults, description)


def _checkpoint(
    path: Path | None, artifact: str, settings: OcrSettings, store: WeightStore
) -> tuple[Path, model_pb2.WeightsInfo]:
    """The touched-up file of `path`, or of the published `artifact` without one, and what Describe says of it."""
    if path is None:
        return prepared_model(store, artifact), _published(artifact, store)
    return prepared_file(store, path), model_pb2.WeightsInfo(
        artifact=path.stem, sha256=file_digest(path), licence=settings.model_licence
    )


def _published(artifact: str, store: WeightStore) -> model_pb2.WeightsInfo:
    info = store.licence(artifact)
    return model_pb2.WeightsInfo(artifact=info.name, sha256=info.sha256, licence=info.licence)


def _version(weights: Sequence[model_pb2.WeightsInfo]) -> str:
    """Changes with any of the three checkpoints and with our own processing."""
    digest = hashlib.sha256(":".join(info.sha256 for info in weights).encode()).hexdigest()
    return f"{digest[:12]}-r{PROCESSING}"


async def main() -> int:
    """Wire and serve; returns the exit code."""
    settings = load_settings(OcrSettings)
    metrics = Metrics("ocr")
    expert: asyncio.Future[OcrExpert] = asyncio.get_running_loop().create_future()
    service = OcrService(expert)

    async def warm_up() -> None:
        loaded = await asyncio.to_thread(load, settings, WeightStore(), metrics)
        expert.set_result(loaded)

    async def close() -> None:
        if expert.done() and not expert.cancelled():
            await expert.result().stages.close()
            expert.result().model.close()

    return await serve(
        service="ocr",
        settings=settings,
        servicers=[
            Servicer(FULL_NAME, lambda server: ocr_pb2_grpc.add_OcrServiceServicer_to_server(service, server))
        ],
        metrics=metrics,
        warm_up=warm_up,
        close=close,
    )


if __name__ == "__main__":
    run(main())

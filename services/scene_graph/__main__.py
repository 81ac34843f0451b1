"""The scene-graph process: `python -m services.scene_graph`. Settings: environment, prefix `SCENE_GRAPH_`."""

from __future__ import annotations

import os

# Before any numeric library is loaded. Requests are what runs in parallel here; numpy's own threads only wait
# for one another (postprocessing took three times as long with two of them on two busy cores).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import asyncio

import grpc

from polysight.vision.v1 import scene_graph_pb2_grpc
from services.scene_graph.backend import open_backend
from services.scene_graph.service import FULL_NAME, SceneGraphExpert, SceneGraphService
from services.scene_graph.settings import SceneGraphSettings
from serving.server import Servicer, run, serve
from serving.settings import load_settings
from serving.telemetry.metrics import Metrics
from serving.weights import WeightStore


def load(settings: SceneGraphSettings, store: WeightStore, metrics: Metrics) -> SceneGraphExpert:
    """Fetch the weights, build and warm up everything that answers.

    Blocking; raises WeightsUnavailableError, EngineError or ValueError.
    """
    backend = open_backend(settings, store)
    backend.model.warm_up(backend.defaults)
    return SceneGraphExpert(
        backend.model,
        backend.stages(settings, metrics),
        backend.defaults,
        backend.description,
        backend.reference_defaults,
    )


async def main() -> int:
    """Wire and serve; returns the exit code."""
    settings = load_settings(SceneGraphSettings)
    metrics = Metrics("scene_graph")
    expert: asyncio.Future[SceneGraphExpert] = asyncio.get_running_loop().create_future()
    service = SceneGraphService(expert)

    async def warm_up() -> None:
        expert.set_result(await asyncio.to_thread(load, settings, WeightStore(), metrics))

    async def close() -> None:
        if expert.done() and not expert.cancelled():
            await expert.result().stages.close()
            expert.result().model.close()

    def add(server: grpc.aio.Server) -> None:
        scene_graph_pb2_grpc.add_SceneGraphServiceServicer_to_server(service, server)

    return await serve(
        service="scene_graph",
        settings=settings,
        servicers=[Servicer(FULL_NAME, add)],
        metrics=metrics,
        warm_up=warm_up,
        close=close,
    )


if __name__ == "__main__":
    run(main())

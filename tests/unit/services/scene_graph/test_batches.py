"""Which pictures share a batch, and what the batcher is told that they cost."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from polysight.common.v1 import model_pb2
from services.scene_graph.backend import Backend, fused_cost, fused_group
from services.scene_graph.fusion import Prepared as FusedPrepared
from services.scene_graph.model import Prepared, SceneGraphParams
from services.scene_graph.psgtr.model import Prepared as PsgtrPrepared
from services.scene_graph.psgtr.pixels import network_input
from services.scene_graph.settings import SceneGraphSettings
from serving.telemetry.metrics import Metrics
from serving.yolo import letterbox

WIDE, TALL = (32, 64, 3), (64, 32, 3)


class Recorder:
    """A relater that notes which shapes came together; the device is busy until `free` is set."""

    max_batch = 4

    def __init__(self) -> None:
        self.free = threading.Event()
        self.batches: list[list[tuple[int, ...]]] = []

    def infer(self, batch: Sequence[Prepared]) -> list[tuple[int, ...]]:
        self.free.wait(30)
        shapes = [prepared.tensor.shape for prepared in batch]
        self.batches.append(shapes)
        return shapes


def prepared(shape: tuple[int, int, int]) -> Prepared:
    return Prepared(*letterbox(np.zeros(shape, np.uint8)))


def both(shape: tuple[int, int, int], *, rules: bool = True) -> FusedPrepared:
    trained = PsgtrPrepared(*network_input(np.zeros(shape, np.uint8), longer=96, shorter=64))
    return FusedPrepared(trained, prepared(shape) if rules else None)


async def test_only_pictures_of_one_shape_share_a_batch() -> None:
    relater: Any = Recorder()
    metrics = Metrics("scene_graph")
    backend = Backend(relater, SceneGraphParams(), None, model_pb2.ModelDescription())
    stages = backend.stages(SceneGraphSettings(max_batch=8), metrics)

    def png(shape: tuple[int, int, int]) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(np.zeros(shape, np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    asked = [WIDE, TALL] * 5
    calls = [
        asyncio.ensure_future(stages.run(png(shape), lambda image: prepared(image.shape), lambda raw: raw))
        for shape in asked
    ]
    while metrics.value("scene_graph_batch_queue_depth") != len(asked) - 1:  # noqa: ASYNC110 - a gauge has no event
        await asyncio.sleep(0.01)
    relater.free.set()
    replies = await asyncio.gather(*calls)
    await stages.close()
    for shape, (said, _) in zip(asked, replies, strict=True):
        assert (said[1] < said[2]) == (shape == WIDE)
    assert all(len(set(batch)) == 1 for batch in relater.batches)
    assert max(len(batch) for batch in relater.batches) == relater.max_batch, "the smaller of the two limits"


def test_two_networks_share_where_both_shapes_agree() -> None:
    assert fused_group(both(WIDE)) == fused_group(both(WIDE))
    assert fused_group(both(WIDE)) != fused_group(both(TALL))
    assert fused_group(both(WIDE)) != fused_group(both(WIDE, rules=False))


def test_two_networks_cost_what_both_see() -> None:
    one, two = both(WIDE, rules=False), both(WIDE)
    assert fused_cost(one) == pytest.approx(one.trained.mask.size / 1e6)
    assert two.geometric is not None
    assert isinstance(two.geometric.tensor, np.ndarray)
    assert fused_cost(two) == pytest.approx(fused_cost(one) + two.geometric.tensor[0].size / 1e6)

"""The model over a fake device: objects, masks and relations come out where they were drawn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from services.scene_graph.geometry import GRID
from services.scene_graph.model import MAX_OBJECTS, SceneGraphModel, SceneGraphParams, on_grid
from serving.coco import COCO_80
from serving.engine import FakeEngine, Tensor, TensorSpec
from serving.yolo import CroppedMask

INPUT = TensorSpec("images", ("batch", 3, "height", "width"), "float32")
OUTPUTS = (
    TensorSpec("output0", ("batch", 116, "anchors"), "float32"),
    TensorSpec("output1", ("batch", 32, "mask_height", "mask_width"), "float32"),
)
# A bus and a person before it, as (class, score, x0, y0, x1, y1) in the pixels of a 640x480 picture.
DRAWN = (("bus", 0.9, 80, 80, 560, 320), ("person", 0.8, 240, 120, 320, 400))


def sees(objects: tuple[tuple[str, float, int, int, int, int], ...]) -> FakeEngine:
    """An engine that sees `objects` in every picture, each nearer than the one before it."""

    def compute(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        batch, _, height, width = inputs["images"].shape
        predictions = np.zeros((116, max(len(objects), 1)), np.float32)
        prototypes = np.full((32, height // 4, width // 4), -9, np.float32)
        for index, (name, score, x0, y0, x1, y1) in enumerate(objects):
            predictions[:4, index] = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
            predictions[4 + COCO_80.index(name), index] = score
            predictions[84 + index, index] = 1
            prototypes[:, y0 // 4 : y1 // 4, x0 // 4 : x1 // 4] = -9
            prototypes[index, y0 // 4 : y1 // 4, x0 // 4 : x1 // 4] = 9
        return {
            "output0": np.repeat(predictions[None], batch, axis=0),
            "output1": np.repeat(prototypes[None], batch, axis=0),
        }

    return FakeEngine([INPUT], OUTPUTS, compute, max_batch=4)


def blank(height: int = 480, width: int = 640) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def test_objects_masks_and_relations() -> None:
    model = SceneGraphModel(sees(DRAWN))
    (raw,) = model.infer([model.preprocess(blank())])
    graph = model.postprocess(raw, SceneGraphParams())
    assert (graph.height, graph.width) == (480, 640)
    assert [COCO_80[label] for label in graph.labels] == ["bus", "person"]
    np.testing.assert_allclose(graph.boxes[1], [240 / 640, 120 / 480, 320 / 640, 400 / 480], atol=1e-5)
    person = graph.masks[1].full(480, 640)
    assert person[130:390, 250:310].all()
    assert person.sum() == pytest.approx(80 * 280, rel=0.05)
    (relation,) = graph.relations
    assert (relation.subject, relation.predicate, relation.object) == (1, "in front of", 0)


@pytest.mark.parametrize(
    ("params", "objects", "related"),
    [
        (SceneGraphParams(object_threshold=0.85), 1, 0),
        (SceneGraphParams(object_threshold=0.95), 0, 0),
        (SceneGraphParams(relation_threshold=0.99), 2, 0),
        (SceneGraphParams(object_threshold=0.0), MAX_OBJECTS, 1),
    ],
)
def test_thresholds(params: SceneGraphParams, objects: int, related: int) -> None:
    model = SceneGraphModel(sees(DRAWN))
    (raw,) = model.infer([model.preprocess(blank())])
    graph = model.postprocess(raw, params)
    assert len(graph.labels) <= objects
    assert len(graph.relations) == related


def test_every_picture_of_a_batch_keeps_its_size() -> None:
    model = SceneGraphModel(sees(DRAWN))
    sizes = [(480, 640), (640, 480), (480, 640), (100, 300), (1, 1)]
    graphs = [
        model.postprocess(raw, SceneGraphParams())
        for raw in model.infer([model.preprocess(blank(*size)) for size in sizes])
    ]
    assert [(graph.height, graph.width) for graph in graphs] == sizes
    for graph in graphs:
        assert ((graph.boxes >= 0) & (graph.boxes <= 1)).all()


def test_warm_up_runs_one_and_the_largest_batch() -> None:
    engine = sees(DRAWN)
    SceneGraphModel(engine).warm_up(SceneGraphParams())
    assert engine.batches == [1, 4]


@pytest.mark.parametrize("size", [(20, 30), (GRID, GRID), (1000, 600), (3, 5000)])
def test_the_grid_keeps_the_shape_of_masks(size: tuple[int, int]) -> None:
    height, width = size
    rng = np.random.default_rng(3)
    pixels = rng.random((max(1, height // 2), max(1, width // 3))) > 0.5
    top, left = height // 4, width // 5
    mask = CroppedMask(top, left, pixels)
    grid = on_grid([mask], height, width)[0]
    assert max(grid.shape) <= GRID
    rows = ((np.arange(grid.shape[0]) + 0.5) * (height / grid.shape[0])).astype(int)
    columns = ((np.arange(grid.shape[1]) + 0.5) * (width / grid.shape[1])).astype(int)
    np.testing.assert_array_equal(grid, mask.full(height, width)[np.ix_(rows, columns)])


def test_no_masks_make_an_empty_grid() -> None:
    assert on_grid([], 480, 640).shape == (0, 192, 256)

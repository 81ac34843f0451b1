"""What the rules say of real photos, read beside the pictures by a person and found true."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.scene_graph.model import SceneGraphModel, SceneGraphParams
from serving.coco import COCO_80
from serving.engine import OnnxRuntimeEngine
from serving.image import decode_image
from serving.weights import WeightStore
from serving.weights.yolo_export import exported_onnx

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def model() -> Iterator[SceneGraphModel]:
    engine = OnnxRuntimeEngine(exported_onnx(WeightStore(), "yolo26n-seg"), threads=1)
    yield SceneGraphModel(engine)
    engine.close()


def said(model: SceneGraphModel, photo: Path) -> list[str]:
    (raw,) = model.infer([model.preprocess(decode_image(photo.read_bytes()))])
    graph = model.postprocess(raw, SceneGraphParams())
    names = [COCO_80[label] for label in graph.labels]
    return sorted(f"{names[one.subject]} {one.predicate} {names[one.object]}" for one in graph.relations)


def test_people_before_a_bus(model: SceneGraphModel, bus_jpg: Path) -> None:
    assert said(model, bus_jpg) == ["person beside person", *["person in front of bus"] * 4]


def test_two_men_and_a_tie(model: SceneGraphModel, zidane_jpg: Path) -> None:
    assert said(model, zidane_jpg) == ["person beside person", "person wearing tie"]


def test_bowls_on_a_table(model: SceneGraphModel, photos_dir: Path) -> None:
    assert said(model, photos_dir / "000000397133.jpg").count("bowl on dining table") == 2


def test_a_sink_and_a_toilet_at_opposite_walls(model: SceneGraphModel, photos_dir: Path) -> None:
    assert said(model, photos_dir / "000000403385.jpg") == []

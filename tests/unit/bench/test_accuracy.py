"""The yardstick of `bench.accuracy`: truth scores one, nothing scores zero, odd files are understood or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pycocotools import mask as coco_mask

from bench.accuracy import Truth, main
from serving.coco import COCO_80


@pytest.fixture
def instances(photos_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((photos_dir / "instances.json").read_text())
    return content


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def the_truth(truth: Truth, content: dict[str, Any], label_of: dict[int, int]) -> tuple[list[Any], list[Any]]:
    boxes: list[Any] = []
    masks: list[Any] = []
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for one in content["annotations"]:
        label = label_of[one["category_id"]]
        rle = coco_mask.merge(coco_mask.frPyObjects(one["segmentation"], *sizes[one["image_id"]]))
        boxes += truth.found(one["image_id"], label, 0.9, bbox=one["bbox"])
        masks += truth.found(one["image_id"], label, 0.9, segmentation=rle)
    return boxes, masks


@pytest.mark.parametrize("rename", [False, True])
def test_the_truth_itself_scores_one(
    tmp_path: Path, photos_dir: Path, instances: dict[str, Any], rename: bool
) -> None:
    categories = sorted(instances["categories"], key=lambda category: int(category["id"]))
    label_of = {category["id"]: COCO_80.index(category["name"]) for category in categories}
    assert sorted(label_of.values()) == list(range(80))
    if rename:  # names in another language: the order of the ids decides
        for category in categories:
            category["name"] = f"Klasse {category['id']}"
    truth = Truth(write(tmp_path, instances), photos_dir)
    boxes, masks = the_truth(truth, instances, label_of)
    assert truth.average_precision(boxes, "bbox") == pytest.approx(1)
    assert truth.average_precision(masks, "segm") == pytest.approx(1)
    assert truth.average_precision(boxes[::2], "bbox") < 1
    assert truth.average_precision([], "bbox") == 0


def test_photos_that_are_not_there_are_left_out(
    tmp_path: Path, photos_dir: Path, instances: dict[str, Any]
) -> None:
    first = instances["images"][0]
    (tmp_path / first["file_name"]).write_bytes((photos_dir / first["file_name"]).read_bytes())
    truth = Truth(write(tmp_path, instances), tmp_path)
    assert list(truth.photos) == [first["id"]]
    mine = {
        **instances,
        "annotations": [a for a in instances["annotations"] if a["image_id"] == first["id"]],
    }
    label_of = {category["id"]: COCO_80.index(category["name"]) for category in instances["categories"]}
    boxes, _ = the_truth(truth, mine, label_of)
    assert truth.average_precision(boxes, "bbox") == pytest.approx(1)


def test_a_class_that_the_file_does_not_know_is_dropped(
    tmp_path: Path, photos_dir: Path, instances: dict[str, Any]
) -> None:
    instances["categories"] = [c for c in instances["categories"] if c["name"] != "toothbrush"]
    truth = Truth(write(tmp_path, instances), photos_dir)
    image_id = instances["images"][0]["id"]
    assert not list(truth.found(image_id, COCO_80.index("toothbrush"), 0.9, bbox=[0, 0, 1, 1]))
    assert list(truth.found(image_id, COCO_80.index("person"), 0.9, bbox=[0, 0, 1, 1]))


def test_what_cannot_be_used_is_refused_with_a_reason(
    tmp_path: Path, instances: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, instances)
    assert main(["--images", str(tmp_path), "--annotations", str(path)]) == 2
    assert "none of the 6 photos" in capsys.readouterr().err
    instances["categories"] = [{"id": 1, "name": "Schraube"}]
    assert main(["--images", str(tmp_path), "--annotations", str(write(tmp_path, instances))]) == 2
    assert "are not those of COCO" in capsys.readouterr().err
    assert main(["--images", str(tmp_path), "--annotations", str(tmp_path / "absent.json")]) == 2

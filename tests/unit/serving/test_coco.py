"""The one table of COCO's classes: whole, in order, and the only one."""

from __future__ import annotations

import json
from pathlib import Path

from serving.coco import COCO_80, COCO_PANOPTIC, THINGS, UNLABELLED, UNLABELLED_ID

ROOT = Path(__file__).resolve().parents[3]


def test_things_come_before_stuff() -> None:
    assert (len(COCO_80), len(COCO_PANOPTIC)) == (THINGS, UNLABELLED_ID) == (80, 133)
    assert COCO_PANOPTIC[:THINGS] == COCO_80
    assert len(set(COCO_PANOPTIC)) == 133
    assert UNLABELLED not in COCO_PANOPTIC


def test_the_numbers_are_those_of_published_checkpoints() -> None:
    """The places that others are known by, from the model card of `facebook/mask2former-swin-base-coco-panoptic`."""
    known = {0: "person", 5: "bus", 9: "traffic light", 79: "toothbrush", 80: "banner", 116: "tree-merged"}
    known |= {119: "sky-other-merged", 125: "grass-merged", 131: "wall-other-merged", 132: "rug-merged"}
    assert {number: COCO_PANOPTIC[number] for number in known} == known


def test_things_are_numbered_by_their_category_ids() -> None:
    """A class index is the rank of COCO's own category id, as in the annotations of the shipped photographs."""
    annotations = json.loads((ROOT / "tests/assets/photos/instances.json").read_text(encoding="utf-8"))
    ranked = [entry["name"] for entry in sorted(annotations["categories"], key=lambda entry: entry["id"])]
    assert tuple(ranked) == COCO_80


def test_no_serving_code_spells_them_again() -> None:
    rooms = ("serving", "services", "gateway")
    spelled = [
        path for room in rooms for path in (ROOT / room).rglob("*.py") if "rug-merged" in path.read_text()
    ]
    assert spelled == [ROOT / "serving" / "coco.py"]

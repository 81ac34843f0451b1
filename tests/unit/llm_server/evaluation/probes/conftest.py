"""A small annotation in COCO's format, and the pictures it is about."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llm_server.evaluation.probes.coco import AnnotatedSet, read_annotations

CATEGORIES = ("person", "dog", "bus", "cup", "tv", "couch")

Write = Callable[..., AnnotatedSet]


@pytest.fixture
def annotate(tmp_path: Path) -> Write:
    """`annotate({picture: [(category, x, y, w, h), ...]}, crowds=...)`: pictures of 100 x 100 pixels."""

    def write(pictures: dict[int, list[tuple[Any, ...]]], *, crowds: tuple[str, ...] = ()) -> AnnotatedSet:
        annotations: list[dict[str, Any]] = []
        for number, objects in pictures.items():
            Image.new("RGB", (100, 100)).save(tmp_path / f"{number}.png")
            annotations += [
                {
                    "id": len(annotations) + k,
                    "image_id": number,
                    "category_id": CATEGORIES.index(name) + 1,
                    "bbox": list(box),
                    "iscrowd": int(name in crowds),
                }
                for k, (name, *box) in enumerate(objects)
            ]
        told = {
            "images": [
                {"id": number, "file_name": f"{number}.png", "width": 100, "height": 100}
                for number in pictures
            ],
            "categories": [{"id": k, "name": name} for k, name in enumerate(CATEGORIES, start=1)],
            "annotations": annotations,
        }
        file = tmp_path / "instances.json"
        file.write_text(json.dumps(told))
        return read_annotations(file, tmp_path)

    return write

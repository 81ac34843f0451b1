"""Annotations are read as they are, and what is malformed is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from llm_server.evaluation.probes.coco import AnnotatedObject, AnnotationError, read_annotations


def write(folder: Path, **parts: Any) -> Path:
    Image.new("RGB", (200, 100)).save(folder / "a.png")
    told: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "a.png", "width": 200, "height": 100}],
        "categories": [{"id": 3, "name": "dog"}],
        "annotations": [{"image_id": 7, "category_id": 3, "bbox": [50, 10, 100, 40]}],
    }
    file = folder / "instances.json"
    file.write_text(json.dumps(told | parts))
    return file


def test_boxes_are_normalised_corners(tmp_path: Path) -> None:
    (picture,) = read_annotations(write(tmp_path), tmp_path).pictures
    assert picture.objects == (AnnotatedObject("dog", (0.25, 0.1, 0.75, 0.5)),)
    assert picture.id == "7"


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (3, "malformed object"),
        ({"image_id": 8, "category_id": 3, "bbox": [0, 0, 1, 1]}, "object of a picture that is not there"),
        ({"image_id": [7], "category_id": 3, "bbox": [0, 0, 1, 1]}, "object of a picture that is not there"),
        ({"image_id": 7, "category_id": 4, "bbox": [0, 0, 1, 1]}, "object of no category"),
        ({"image_id": 7, "category_id": 3}, "object without a box"),
        ({"image_id": 7, "category_id": 3, "bbox": [0, 0, 1]}, "object without a box"),
        ({"image_id": 7, "category_id": 3, "bbox": [0, 0, 0, 5]}, "object without a box"),
        ({"image_id": 7, "category_id": 3, "bbox": "0 0 1 1"}, "object without a box"),
        ({"image_id": 7, "category_id": 3, "bbox": [0, 0, "1", 1]}, "object without a box"),
        ({"image_id": 7, "category_id": 3, "bbox": [300, 0, 10, 10]}, "object without a box"),
    ],
)
def test_what_is_malformed_is_counted(tmp_path: Path, annotation: Any, reason: str) -> None:
    read = read_annotations(write(tmp_path, annotations=[annotation]), tmp_path)
    assert read.skipped == {reason: 1}
    assert read.pictures[0].objects == ()


def test_pictures_that_are_not_there_are_counted(tmp_path: Path) -> None:
    images = [
        {"id": 7, "file_name": "a.png", "width": 200, "height": 100},
        {"id": 8, "file_name": "b.png", "width": 200, "height": 100},
        {"id": 9, "file_name": "../a.png", "width": 200, "height": 100},
        {"id": 10, "file_name": "a.png", "width": 0, "height": 100},
        {"id": 7, "file_name": "a.png", "width": 200, "height": 100},
    ]
    read = read_annotations(write(tmp_path, images=images), tmp_path)
    assert [picture.id for picture in read.pictures] == ["7"]
    assert read.skipped == {"picture not in the folder": 1, "malformed picture": 2, "picture listed twice": 1}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": {}, "annotations": [], "categories": []}'])
def test_another_format_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(AnnotationError):
        read_annotations(file, tmp_path)


def test_a_folder_without_the_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(AnnotationError, match="none of the 1 pictures"):
        read_annotations(write(tmp_path), tmp_path / "elsewhere")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "name", "bbox"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries(
        {"image_id": st.just(7) | json_values, "category_id": st.just(3) | json_values, "bbox": json_values}
    ),
    json_values,
)
def test_no_annotation_breaks_the_reader(tmp_path: Path, annotation: Any, category: Any) -> None:
    file = write(tmp_path, annotations=[annotation], categories=[{"id": 3, "name": "dog"}, category])
    read = read_annotations(file, tmp_path)
    for seen in read.pictures[0].objects:
        x0, y0, x1, y1 = seen.box
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1

"""COCO's regions are read as pycocotools writes them, questions are formed word for word, junk is counted."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from llm_server.training.coco_masks import MaskError, run_lengths, sampled, segmentation_cells
from llm_server.training.coco_pictures import (
    CocoError,
    NumberedObject,
    Picture,
    read_pictures,
    spoken_name,
)
from llm_server.training.crayon_instructions import BOXES_OF, NAMES, NAMES_AND_BOXES, crayon_questions

LABELS = {"person": [0], "horse": [17], "wall-other-merged": [131], "wall-brick": [109]}
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 19, "name": "horse"}, {"id": 200, "name": "wall-other-merged"},
              {"id": 171, "name": "wall-brick"}]  # fmt: skip
IMAGES = [{"id": 5, "file_name": "a.jpg", "height": 40, "width": 60}]
LEFT = [[0.0, 0.0, 30.0, 0.0, 30.0, 40.0, 0.0, 40.0]]


def pictures(
    folder: Path, annotations: list[Any], *, images: list[Any] = IMAGES, segments: Path | None = None
) -> tuple[list[Picture], Counter[str]]:
    path = folder / "annotation.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    skipped: Counter[str] = Counter()
    found = read_pictures(path, rows=4, columns=6, label_ids=LABELS, segments=segments, skipped=skipped)
    return list(found), skipped


def instance(category: int, bbox: Any, segmentation: Any = LEFT, **more: Any) -> dict[str, Any]:
    return {"image_id": 5, "category_id": category, "bbox": bbox, "segmentation": segmentation, **more}


@given(
    st.integers(min_value=1, max_value=40),
    st.integers(min_value=1, max_value=40),
    st.floats(min_value=0, max_value=1),
    st.integers(min_value=0, max_value=10**6),
)
@settings(max_examples=80, deadline=None)
def test_run_lengths_are_what_pycocotools_wrote(height: int, width: int, share: float, seed: int) -> None:
    pixels = np.random.default_rng(seed).random((height, width)) < share
    told = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))
    found = run_lengths({"size": [height, width], "counts": told["counts"].decode()}, height, width)
    assert np.array_equal(found, pixels)
    flat = pixels.T.flatten()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat]))).tolist()
    counts = np.diff([0, *edges, flat.size]).tolist()
    assert np.array_equal(run_lengths({"size": [height, width], "counts": counts}, height, width), pixels)


@given(st.text(max_size=30) | st.lists(st.integers(), max_size=5) | st.none())
@settings(max_examples=100, deadline=None)
def test_malformed_run_lengths_are_refused_and_nothing_else_happens(counts: Any) -> None:
    try:
        found = run_lengths({"size": [3, 4], "counts": counts}, 3, 4)
    except MaskError:
        return
    assert found.shape == (3, 4)


@given(st.integers(min_value=0, max_value=10**6))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_polygons_fill_the_cells_that_pycocotools_fills(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width, rows, columns = 90, 120, 9, 12
    centre, count = rng.uniform(0.3, 0.7, 2), int(rng.integers(3, 9))
    turns = np.sort(rng.uniform(0, 2 * np.pi, count))
    points = centre + 0.3 * np.stack([np.cos(turns), np.sin(turns)], 1)
    polygon = (points * [width, height]).flatten().tolist()
    whole = coco.decode(coco.merge(coco.frPyObjects([polygon], height, width))).astype(bool)
    found = segmentation_cells([polygon], height, width, rows, columns)
    for row, column in np.argwhere(found != sampled(whole, rows, columns)):
        # It may fall either way only where the outline passes within three pixels of the middle of the cell.
        middle = np.array([(column + 0.5) * width / columns, (row + 0.5) * height / rows])
        assert distance(middle, np.array(polygon).reshape(-1, 2)) < 3.0


def distance(point: NDArray[np.float64], outline: NDArray[np.float64]) -> float:
    """From a point to the nearest edge of a closed outline (n, 2)."""
    along = np.roll(outline, -1, axis=0) - outline
    share = ((point - outline) * along).sum(1) / np.maximum((along**2).sum(1), 1e-12)
    nearest = outline + np.clip(share, 0.0, 1.0)[:, None] * along
    return float(np.hypot(*(point - nearest).T).min())


def test_objects_are_numbered_within_their_name_and_painted(tmp_path: Path) -> None:
    small = [[12.0, 12.0, 18.0, 12.0, 18.0, 18.0, 12.0, 18.0]]
    (found,), skipped = pictures(
        tmp_path,
        [
            instance(19, [12, 12, 6, 6], small),
            instance(1, [0, 0, 30, 40]),
            instance(1, [40, 10, 40, 20], [[40, 10, 60, 10, 60, 30, 40, 30]]),
        ],
    )
    assert not skipped
    assert found.file == "a.jpg"
    assert found.objects == (
        NumberedObject("horse", 1, (0.2, 0.3, 0.3, 0.45)),
        NumberedObject("person", 1, (0.0, 0.0, 0.5, 1.0)),
        NumberedObject("person", 2, (40 / 60, 0.25, 1.0, 0.75)),
    )
    assert found.maps.classes.tolist() == [
        [1, 1, 1, 0, 0, 0],
        [1, 18, 1, 0, 1, 1],
        [1, 1, 1, 0, 1, 1],
        [1, 1, 1, 0, 0, 0],
    ]
    assert found.maps.numbers[1].tolist() == [1, 1, 1, 0, 2, 2]


def test_panoptic_segments_come_from_their_png(tmp_path: Path) -> None:
    ids = np.zeros((40, 60), np.int64)
    ids[:, :30], ids[:, 30:] = 70_000, 3
    pixels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    segments = [
        {"id": 70_000, "category_id": 200, "bbox": [0, 0, 30, 40]},
        {"id": 3, "category_id": 171, "bbox": [30, 0, 30, 40]},
    ]
    told = [{"image_id": 5, "file_name": "a.png", "segments_info": segments}]
    (found,), skipped = pictures(tmp_path, told, segments=tmp_path)
    assert not skipped
    # Two classes that are called the same count on in words; in the map each counts for itself.
    assert [(o.name, o.number) for o in found.objects] == [("wall-brick", 1), ("wall", 1)][::-1]
    assert found.maps.classes[0].tolist() == [132, 132, 132, 110, 110, 110]
    assert set(found.maps.numbers.flat) == {1}
    with pytest.raises(CocoError, match="folder"):
        pictures(tmp_path, told)
    assert pictures(tmp_path, [{**told[0], "file_name": "../a.png"}], segments=tmp_path)[1] == {
        "malformed annotation": 1,
        "picture without objects": 1,
    }


def test_what_is_malformed_is_counted_by_reason_and_the_rest_is_read(tmp_path: Path) -> None:
    box = [0, 0, 30, 40]
    found, skipped = pictures(
        tmp_path,
        [
            instance(1, box),
            instance(1, box, iscrowd=1),
            instance(77, box),
            instance(1, [0, 0, 0, 40]),
            instance(1, [0, 0, float("nan"), 40]),
            instance(1, "box"),
            instance(1, box, [[1, 2, 3]]),
            instance(1, box, {"size": [1, 1], "counts": "x"}),
            {**instance(1, box), "image_id": 6},
            "annotation",
        ],
        images=[*IMAGES, {"id": 9}, "image"],
    )
    assert len(found) == 1
    assert len(found[0].objects) == 1
    assert skipped == {
        "crowd": 1,
        "object of no category": 1,
        "object without a box": 3,
        "malformed region": 2,
        "annotation of no picture": 1,
        "malformed annotation": 1,
        "malformed picture": 2,
    }


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}'])
def test_a_file_of_another_format_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(CocoError):
        read_pictures(path, rows=2, columns=2, label_ids=LABELS, skipped=Counter())


OBJECTS = st.lists(
    st.builds(
        NumberedObject,
        st.sampled_from(["horse", "person", "wall", "traffic light"]),
        st.integers(min_value=1, max_value=30),
        st.tuples(*[st.floats(min_value=0, max_value=1)] * 4),
    ),
    max_size=8,
)
_ONE = r"\(#\d+ [a-z ]+\)"
_BOX = r"\[(?:[01]\.\d\d, ){3}[01]\.\d\d\]"


@given(OBJECTS)
@settings(max_examples=100, deadline=None)
def test_the_three_kinds_of_crayon_questions_are_formed_exactly(objects: list[NumberedObject]) -> None:
    asked = crayon_questions(objects)
    if not objects:
        assert not asked
        return
    names, boxes, *classes = asked
    assert names.text == NAMES
    assert re.fullmatch(rf"Sure, it is {_ONE}(?:, {_ONE})*\.", names.answer)
    assert boxes.text == NAMES_AND_BOXES
    assert re.fullmatch(rf"Sure, it is {_ONE} {_BOX}(?:, {_ONE} {_BOX})*\.", boxes.answer)
    assert boxes.answer.count("(#") == names.answer.count("(#") == len(objects)
    assert {q.text for q in classes} == {BOXES_OF.format(name=o.name) for o in objects}
    assert len(classes) == len({o.name for o in objects})
    assert sum(q.answer.count("(#") for q in classes) == len(objects)
    assert {q.task for q in asked} == {"object"}


def test_an_example_word_for_word() -> None:
    horse = NumberedObject("horse", 1, (0.06, 0.38, 0.27, 0.91))
    assert [(q.text, q.answer) for q in crayon_questions([horse])] == [
        ("Provide multiple object names with their numbering index in the image.", "Sure, it is (#1 horse)."),
        (
            "Provide multiple object names with their numbering index and the objects' bounding box coordinates in "
            "this image.",
            "Sure, it is (#1 horse) [0.06, 0.38, 0.27, 0.91].",
        ),
        (
            "Provide multiple bounding box coordinates for horse in the image.",
            "Sure, it is (#1 horse) [0.06, 0.38, 0.27, 0.91].",
        ),
    ]
    assert spoken_name("wall-other-merged") == "wall"

"""Reads COCO annotations for training: instances (polygons, run lengths) and panoptic (segments, PNGs beside them).

Gives for each picture the objects with number and box, and the crayon maps. What is malformed is passed over and
counted by reason. Numbers count the instances of a name in the order of the file; crowds are regions of many, not
one, and are left out. Source of the formats: cocodataset.org, "Data format".
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llm_server.training.coco_masks import MaskError, segment_ids, segmentation_cells
from llm_server.training.scene_maps import MAX_NUMBER, LabelIds, Maps
from llm_server.training.scenes import Box

_SUFFIXES: Final = ("-merged", "-other", "-stuff")
_SMALLEST: Final = 1e-6


class CocoError(ValueError):
    """The file is not an annotation in COCO's format."""


@dataclass(frozen=True)
class NumberedObject:
    """One object: the name it is called by (suffixes dropped), its number within that name, normalised xyxy box."""

    name: str
    number: int
    box: Box


@dataclass(frozen=True)
class Picture:
    """One picture: file name, objects in the order of the file, maps of the grid that was asked for."""

    file: str
    objects: tuple[NumberedObject, ...]
    maps: Maps


def spoken_name(category: str) -> str:
    """A category's name as CoLLaVO says it: without ``-merged``, ``-other``, ``-stuff``."""
    for suffix in _SUFFIXES:
        category = category.replace(suffix, "")
    return category


def read_pictures(
    annotations: Path,
    *,
    rows: int,
    columns: int,
    label_ids: LabelIds,
    segments: Path | None = None,
    skipped: Counter[str],
) -> Iterator[Picture]:
    """The pictures of an annotation that have an object, by ascending id.

    Args:
        annotations: instances or panoptic JSON; told apart by ``segments_info``.
        rows: of the crayon grid.
        columns: of the crayon grid.
        label_ids: class indices (0 to 132) by the category's name as the file has it.
        segments: folder with the PNGs of a panoptic annotation.
        skipped: counts what is passed over, by reason, while the pictures are drawn.

    Raises:
        CocoError: the file is not in COCO's format, or a panoptic one came without its folder.
        OSError: it cannot be read.
    """
    try:
        told = json.loads(annotations.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CocoError(f"{annotations} is no JSON: {error}") from error
    parts = ("images", "annotations", "categories")
    if not isinstance(told, dict) or not all(isinstance(told.get(part), list) for part in parts):
        raise CocoError(f"{annotations} is not in COCO's format: it needs the lists {', '.join(parts)}")
    panoptic = any(isinstance(a, dict) and "segments_info" in a for a in told["annotations"])
    if panoptic and segments is None:
        raise CocoError(f"{annotations} is panoptic: its folder of PNGs is needed")
    names = _categories(told["categories"], label_ids, skipped)
    images = _images(told["images"], skipped)
    grouped = _grouped(told["annotations"], images, skipped)
    return _pictures(
        images, grouped, names, (rows, columns), segments if panoptic else None, label_ids, skipped
    )


def _pictures(
    images: Mapping[int, tuple[str, int, int]],
    grouped: Mapping[int, list[dict[str, Any]]],
    names: Mapping[int, str],
    size: tuple[int, int],
    segments: Path | None,
    label_ids: LabelIds,
    skipped: Counter[str],
) -> Iterator[Picture]:
    for image_id in sorted(grouped):
        file, height, width = images[image_id]
        canvas = _Canvas(size, label_ids)
        for annotation in grouped[image_id]:
            if segments is None:
                _instance(canvas, annotation, names, height, width, skipped)
            else:
                _segments(canvas, annotation, names, height, width, segments, skipped)
        if canvas.objects:
            yield Picture(file, tuple(canvas.objects), canvas.maps())
        else:
            skipped["picture without objects"] += 1


class _Canvas:
    """Collects the objects of one picture and paints them, large regions under small ones."""

    def __init__(self, size: tuple[int, int], label_ids: LabelIds) -> None:
        self.size = size
        self.objects: list[NumberedObject] = []
        self._label_ids = label_ids
        self._layers: list[tuple[int, int, NDArray[np.bool_]]] = []
        self._counts: Counter[str] = Counter()
        self._of_class: Counter[int] = Counter()

    def add(self, category: str, box: Box, cells: NDArray[np.bool_]) -> None:
        """One object more, with a number in its name, and in the map one in its class."""
        name, label = spoken_name(category), self._label_ids[category][0]
        self._counts[name] += 1
        self._of_class[label] += 1
        self.objects.append(NumberedObject(name, self._counts[name], box))
        number = self._of_class[label]
        self._layers.append((label + 1, number if number <= MAX_NUMBER else 0, cells))

    def maps(self) -> Maps:
        """The two maps of what was added."""
        classes, numbers = np.zeros(self.size, np.uint8), np.zeros(self.size, np.uint8)
        for label, number, cells in sorted(self._layers, key=lambda layer: -int(layer[2].sum())):
            classes[cells], numbers[cells] = label, number
        return Maps(classes, numbers)


def _instance(
    canvas: _Canvas,
    annotation: dict[str, Any],
    names: Mapping[int, str],
    height: int,
    width: int,
    skipped: Counter[str],
) -> None:
    found = _object(annotation, names, height, width, skipped)
    if found is None:
        return
    try:
        cells = segmentation_cells(annotation.get("segmentation"), height, width, *canvas.size)
    except MaskError:
        skipped["malformed region"] += 1
        return
    canvas.add(*found, cells)


def _segments(
    canvas: _Canvas,
    annotation: dict[str, Any],
    names: Mapping[int, str],
    height: int,
    width: int,
    folder: Path,
    skipped: Counter[str],
) -> None:
    listed, name = annotation.get("segments_info"), annotation.get("file_name")
    if not isinstance(listed, list) or not isinstance(name, str) or Path(name).name != name:
        skipped["malformed annotation"] += 1
        return
    try:
        grid = segment_ids(folder / name, *canvas.size)
    except MaskError:
        skipped["segments that cannot be read"] += 1
        return
    for segment in listed:
        if not isinstance(segment, dict) or type(segment.get("id")) is not int:
            skipped["malformed object"] += 1
            continue
        found = _object(segment, names, height, width, skipped)
        if found is not None:
            canvas.add(*found, grid == segment["id"])


def _object(
    told: dict[str, Any], names: Mapping[int, str], height: int, width: int, skipped: Counter[str]
) -> tuple[str, Box] | None:
    """Category and box, or None with the reason counted."""
    if told.get("iscrowd"):
        skipped["crowd"] += 1
        return None
    category = told.get("category_id")
    if type(category) is not int or category not in names:
        skipped["object of no category"] += 1
        return None
    box = _box(told.get("bbox"), height, width)
    if box is None:
        skipped["object without a box"] += 1
        return None
    return names[category], box


def _box(told: Any, height: int, width: int) -> Box | None:
    """``told`` (x, y, width, height in pixels) as a normalised xyxy box within the picture."""
    if not isinstance(told, list) or len(told) != 4:
        return None
    if not all(type(value) in (int, float) and math.isfinite(value) for value in told):
        return None
    x, y, w, h = told
    x0, x1 = (min(max(value / width, 0.0), 1.0) for value in (x, x + w))
    y0, y1 = (min(max(value / height, 0.0), 1.0) for value in (y, y + h))
    return (x0, y0, x1, y1) if x1 - x0 > _SMALLEST and y1 - y0 > _SMALLEST else None


def _categories(listed: list[Any], label_ids: LabelIds, skipped: Counter[str]) -> dict[int, str]:
    names: dict[int, str] = {}
    for category in listed:
        name = category.get("name") if isinstance(category, dict) else None
        if not isinstance(name, str) or type(category.get("id")) is not int:
            skipped["malformed category"] += 1
        elif name not in label_ids:
            skipped["category without an embedding"] += 1
        else:
            names[category["id"]] = name
    return names


def _images(listed: list[Any], skipped: Counter[str]) -> dict[int, tuple[str, int, int]]:
    out: dict[int, tuple[str, int, int]] = {}
    for image in listed:
        whole = isinstance(image, dict) and isinstance(image.get("file_name"), str)
        sides = [image.get(side) for side in ("height", "width")] if whole else []
        if not whole or type(image.get("id")) is not int or not all(type(s) is int and s > 0 for s in sides):
            skipped["malformed picture"] += 1
        else:
            out[image["id"]] = (image["file_name"], *sides)
    return out


def _grouped(
    listed: list[Any], images: Mapping[int, Any], skipped: Counter[str]
) -> dict[int, list[dict[str, Any]]]:
    out: dict[int, list[dict[str, Any]]] = {}
    for annotation in listed:
        if not isinstance(annotation, dict):
            skipped["malformed annotation"] += 1
        elif type(annotation.get("image_id")) is not int or annotation["image_id"] not in images:
            skipped["annotation of no picture"] += 1
        else:
            out.setdefault(annotation["image_id"], []).append(annotation)
    return out

"""Reads an annotation in COCO's format (instances): pictures, and the objects in them.

Objects are named by their category and have normalised boxes. What is malformed (no such picture or category, a box
without area or of other than four numbers) is passed over and counted, and so are pictures that are not in the folder.
Source of the format: cocodataset.org, "Data format", 1. Object Detection.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from llm_server.evaluation.probes.boxes import Box


class AnnotationError(ValueError):
    """The file is not an annotation in COCO's format, or none of its pictures is there."""


@dataclass(frozen=True)
class AnnotatedObject:
    """One object: category name, normalised xyxy box, and whether it is a crowd (a region of many, not one)."""

    name: str
    box: Box
    crowd: bool = False


@dataclass(frozen=True)
class AnnotatedPicture:
    """One picture on disk and the objects in it."""

    id: str
    path: Path
    objects: tuple[AnnotatedObject, ...]

    def counts(self) -> Counter[str]:
        """How many of each category, crowds left out, in the order of the annotation."""
        return Counter(seen.name for seen in self.objects if not seen.crowd)

    def names(self) -> set[str]:
        """The categories that are there, in crowds too."""
        return {seen.name for seen in self.objects}

    def crowds(self) -> set[str]:
        """The categories with a crowd, which cannot be counted."""
        return {seen.name for seen in self.objects if seen.crowd}


@dataclass(frozen=True)
class AnnotatedSet:
    """The pictures by ascending id, all categories by ascending id, and what was passed over, by reason."""

    pictures: tuple[AnnotatedPicture, ...]
    categories: tuple[str, ...]
    skipped: Counter[str]


def read_annotations(annotations: Path, images: Path) -> AnnotatedSet:
    """The pictures of `annotations` that are in the folder `images`.

    Raises:
        OSError: the file cannot be read.
        AnnotationError: it is not in COCO's format, or the folder has none of its pictures.
    """
    try:
        told = json.loads(annotations.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AnnotationError(f"{annotations} is no JSON: {error}") from error
    parts = ("images", "annotations", "categories")
    if not isinstance(told, dict) or not all(isinstance(told.get(part), list) for part in parts):
        raise AnnotationError(f"{annotations} is not in COCO's format: it needs the lists {', '.join(parts)}")
    skipped: Counter[str] = Counter()
    names = _categories(told["categories"], skipped)
    found: dict[Any, list[AnnotatedObject]] = {}
    places: dict[Any, tuple[Path, float, float]] = {}
    for image in told["images"]:
        place = _place(image, images)
        if place is None:
            skipped["malformed picture"] += 1
        elif not place[0].is_file():
            skipped["picture not in the folder"] += 1
        elif image["id"] in places:
            skipped["picture listed twice"] += 1
        else:
            places[image["id"]] = place
            found[image["id"]] = []
    if not places:
        raise AnnotationError(f"none of the {len(told['images'])} pictures of {annotations} is in {images}")
    for annotation in told["annotations"]:
        if not isinstance(annotation, dict):
            skipped["malformed object"] += 1
        elif not _named(annotation, "image_id", places):
            skipped["object of a picture that is not there"] += 1
        elif not _named(annotation, "category_id", names):
            skipped["object of no category"] += 1
        else:
            _, width, height = places[annotation["image_id"]]
            box = _box(annotation.get("bbox"), width, height)
            if box is None:
                skipped["object without a box"] += 1
            else:
                name = names[annotation["category_id"]]
                crowd = bool(annotation.get("iscrowd"))
                found[annotation["image_id"]].append(AnnotatedObject(name, box, crowd))
    pictures = (AnnotatedPicture(str(i), places[i][0], tuple(found[i])) for i in sorted(places, key=_order))
    return AnnotatedSet(tuple(pictures), tuple(names.values()), skipped)


def _categories(listed: Sequence[Any], skipped: Counter[str]) -> dict[Any, str]:
    names: dict[Any, str] = {}
    for category in sorted(
        (c for c in listed if isinstance(c, dict) and "id" in c), key=lambda c: _order(c["id"])
    ):
        name = category.get("name")
        if isinstance(name, str) and name.strip() and isinstance(category["id"], int | str):
            names[category["id"]] = name.strip()
    skipped["malformed category"] += len(listed) - len(names)
    if not skipped["malformed category"]:
        del skipped["malformed category"]
    return names


def _order(identifier: Any) -> tuple[int, int | str]:
    """Numbers before words, each in their own order."""
    return (0, identifier) if isinstance(identifier, int) else (1, str(identifier))


def _place(image: Any, folder: Path) -> tuple[Path, float, float] | None:
    """Path, width and height of a listed picture; None if it is malformed or leads out of the folder."""
    if not isinstance(image, Mapping) or not isinstance(image.get("id"), int | str):
        return None
    name, width, height = image.get("file_name"), image.get("width"), image.get("height")
    if not isinstance(name, str) or not name or not _positive(width) or not _positive(height):
        return None
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return None
    return folder / name, float(width), float(height)


def _box(bbox: Any, width: float, height: float) -> Box | None:
    """`bbox` (x, y, width, height in pixels) as a normalised xyxy box within the picture."""
    if not isinstance(bbox, Sequence) or isinstance(bbox, str) or len(bbox) != 4:
        return None
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in bbox):
        return None
    x, y, w, h = bbox
    x0, x1 = (min(max(value / width, 0.0), 1.0) for value in (x, x + w))
    y0, y1 = (min(max(value / height, 0.0), 1.0) for value in (y, y + h))
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _positive(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _named(thing: Mapping[str, Any], key: str, known: Container[Any]) -> bool:
    """Whether `thing[key]` is an identifier that is known."""
    return isinstance(thing.get(key), int | str) and thing[key] in known

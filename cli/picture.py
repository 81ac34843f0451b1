"""Draws what the experts saw onto the picture: masks, boxes with names, relations as arrows, text regions.

The panoptic expert's segments are drawn; where it is missing, the detection expert's boxes stand in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from polysight.common.v1 import geometry_pb2
from polysight.gateway.v1 import polysight_pb2 as gateway_pb2
from polysight.vision.v1 import ocr_pb2, scene_graph_pb2
from serving.image import decode_image
from serving.masks import Rle, decode_png, decode_rle

MIN_SIDE = 1000  # small pictures are enlarged so that labels stay legible
MAX_SIDE = 2000
MAX_ARROWS = 8
_MASK_OPACITY = 0.42
# Colour-blind-safe hues (Okabe and Ito, 2008), then their lighter kin.
_COLOURS = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233),
    (148, 103, 189), (188, 189, 34), (214, 39, 40), (23, 190, 207),
)  # fmt: skip
_TEXT_COLOUR = (255, 235, 59)
_ARROW_COLOUR = (255, 255, 255)

Colour = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class _Drawn:
    """One object to draw: a name with its number, a normalised box, a mask at image size if there is one."""

    name: str
    box: geometry_pb2.Box
    mask: NDArray[np.bool_] | None
    colour: Colour
    score: float


def annotate(data: bytes, reports: Sequence[gateway_pb2.ExpertReport]) -> Image.Image:
    """The picture in `data` with the experts' results drawn on it, as an RGB image.

    Raises the errors of `serving.image.decode_image` for bytes that are no picture.
    """
    pixels = decode_image(data)
    results = {report.WhichOneof("result"): report for report in reports if report.WhichOneof("result")}
    objects = _objects(results)
    canvas = _enlarged(Image.fromarray(_tint(pixels, objects)))
    size = max(14, round(max(canvas.size) / 62))
    draw = ImageDraw.Draw(canvas, "RGBA")
    font = ImageFont.load_default(size)
    for one in sorted(objects, key=lambda one: -_area(one.box)):
        _draw_box(draw, canvas.size, one, font)
    taken: list[tuple[float, float, float, float]] = []
    if "ocr" in results:
        for line in results["ocr"].ocr.lines:
            _draw_text_line(draw, canvas.size, line, font, taken)
    if "scene_graph" in results:
        _draw_relations(draw, canvas.size, results["scene_graph"].scene_graph, font, taken)
    for one in objects:
        x, y = one.box.x_min * canvas.width, one.box.y_min * canvas.height
        _tag(draw, canvas.size, (x, y), f"{one.name} {one.score:.2f}", font, one.colour, taken)
    return canvas


def _objects(results: dict[str | None, gateway_pb2.ExpertReport]) -> list[_Drawn]:
    seen: Counter[str] = Counter()
    drawn: list[_Drawn] = []
    found: Iterable[tuple[str, geometry_pb2.Box, geometry_pb2.Mask | None, float]] = ()
    if "panoptic" in results:
        segments = results["panoptic"].panoptic.segments
        found = [(one.label, one.box, one.mask, one.score) for one in segments if one.is_thing]
    elif "detection" in results:
        detections = results["detection"].detection.detections
        found = [(one.label, one.box, None, one.score) for one in detections]
    for index, (label, box, mask, score) in enumerate(found):
        seen[label] += 1
        colour = _COLOURS[index % len(_COLOURS)]
        drawn.append(_Drawn(f"{label} #{seen[label]}", box, _mask(mask), colour, score))
    return drawn


def _mask(mask: geometry_pb2.Mask | None) -> NDArray[np.bool_] | None:
    kind = mask.WhichOneof("encoding") if mask is not None else None
    if mask is None or kind is None:
        return None
    if kind == "png":
        return decode_png(mask.png)
    rle = mask.coco_rle
    return decode_rle(Rle(rle.height, rle.width, rle.counts))


def _tint(pixels: NDArray[np.uint8], objects: Sequence[_Drawn]) -> NDArray[np.uint8]:
    tinted = pixels.astype(np.float32)
    for one in objects:
        if one.mask is not None and one.mask.shape == pixels.shape[:2]:
            colour = np.asarray(one.colour, np.float32)
            tinted[one.mask] = tinted[one.mask] * (1 - _MASK_OPACITY) + colour * _MASK_OPACITY
            tinted[_outline(one.mask)] = colour
    return tinted.round().astype(np.uint8)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of the mask that touch its outside."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return mask & ~inner


def _enlarged(image: Image.Image) -> Image.Image:
    side = max(image.size)
    factor = max(MIN_SIDE / side, 1.0) if side < MAX_SIDE else MAX_SIDE / side
    if factor == 1.0:
        return image
    return image.resize(
        (max(1, round(image.width * factor)), max(1, round(image.height * factor))), Image.Resampling.LANCZOS
    )


def _area(box: geometry_pb2.Box) -> float:
    return (box.x_max - box.x_min) * (box.y_max - box.y_min)


def _draw_box(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    one: _Drawn,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    corners = (
        one.box.x_min * size[0],
        one.box.y_min * size[1],
        max(one.box.x_max * size[0] - 1, one.box.x_min * size[0]),
        max(one.box.y_max * size[1] - 1, one.box.y_min * size[1]),
    )
    draw.rectangle(corners, outline=(*one.colour, 255), width=max(2, round(max(size) / 400)))


def _draw_text_line(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    line: ocr_pb2.TextLine,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    taken: list[tuple[float, float, float, float]],
) -> None:
    points = [(point.x * size[0], point.y * size[1]) for point in line.polygon.points]
    if len(points) >= 3:
        draw.polygon(points, outline=(*_TEXT_COLOUR, 255), fill=(*_TEXT_COLOUR, 50))
        left = min(x for x, _ in points)
        bottom = max(y for _, y in points)
        _tag(draw, size, (left, bottom + 2), f"“{line.text}”", font, _TEXT_COLOUR, taken, below=True)


def _draw_relations(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    graph: scene_graph_pb2.GenerateSceneGraphResponse,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    taken: list[tuple[float, float, float, float]],
) -> None:
    for edge in list(graph.relations)[:MAX_ARROWS]:
        start = _centre(graph.objects[edge.subject_index].box, size)
        end = _centre(graph.objects[edge.object_index].box, size)
        _arrow(draw, start, end, width=max(2, round(max(size) / 500)))
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        _tag(draw, size, middle, edge.predicate, font, _ARROW_COLOUR, taken)


def _centre(box: geometry_pb2.Box, size: tuple[int, int]) -> Point:
    return (box.x_min + box.x_max) / 2 * size[0], (box.y_min + box.y_max) / 2 * size[1]


def _arrow(draw: ImageDraw.ImageDraw, start: Point, end: Point, *, width: int) -> None:
    direction = np.subtract(end, start)
    length = float(np.hypot(*direction))
    if length < 1:
        return
    forward = direction / length
    across = np.array([-forward[1], forward[0]])
    head = min(width * 6, length / 2)
    base = np.asarray(end) - forward * head
    draw.line([*start, *base], fill=(*_ARROW_COLOUR, 210), width=width)
    corners = [tuple(end), tuple(base + across * head * 0.5), tuple(base - across * head * 0.5)]
    draw.polygon(corners, fill=(*_ARROW_COLOUR, 210))
    draw.ellipse(
        [start[0] - width * 2, start[1] - width * 2, start[0] + width * 2, start[1] + width * 2],
        fill=(*_ARROW_COLOUR, 210),
    )


def _tag(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    at: Point,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    colour: Colour,
    taken: list[tuple[float, float, float, float]],
    *,
    below: bool = False,
) -> None:
    """A label on a coloured ground, kept inside the picture and, where it can be, off the labels already there."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 8, bottom - top + 6
    x = min(max(at[0], 0), max(size[0] - width, 0))
    y = min(max(at[1] if below else at[1] - height, 0), max(size[1] - height, 0))
    for _ in range(12):
        hit = next((box for box in taken if _overlap(box, (x, y, x + width, y + height))), None)
        if hit is None or hit[3] + height > size[1]:
            break
        y = hit[3] + 1
    taken.append((x, y, x + width, y + height))
    draw.rectangle([x, y, x + width, y + height], fill=(*colour, 225))
    bright = colour[0] * 0.299 + colour[1] * 0.587 + colour[2] * 0.114 > 140
    draw.text((x + 4 - left, y + 3 - top), text, font=font, fill=(0, 0, 0) if bright else (255, 255, 255))


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

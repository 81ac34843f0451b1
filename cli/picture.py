"""Draws what the experts saw onto the picture: masks, boxes with names, relations as arrows, text regions.

Beside the picture stands what was read and related, in words. Objects bear the numbers of the verbalization, so that
"person (#2)" in a sentence can be found in the picture. The panoptic expert's segments are drawn; where it is missing,
the detection expert's boxes stand in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cli.legend import Font, beside, load_font
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


def annotate(
    data: bytes,
    reports: Sequence[gateway_pb2.ExpertReport],
    verbalization: gateway_pb2.Verbalization | None = None,
) -> Image.Image:
    """The picture in `data` with the experts' results drawn on it and listed beside it, as an RGB image.

    Objects are numbered as in `verbalization` if it is given. Raises the errors of `serving.image.decode_image` for
    bytes that are no picture.
    """
    pixels = decode_image(data)
    results = {report.WhichOneof("result"): report for report in reports if report.WhichOneof("result")}
    objects = _objects(results, verbalization)
    canvas = _enlarged(Image.fromarray(_tint(pixels, objects)))
    draw = ImageDraw.Draw(canvas, "RGBA")
    font = load_font(max(14, round(max(canvas.size) / 62)))
    lines = list(results["ocr"].ocr.lines) if "ocr" in results else []
    graph = results["scene_graph"].scene_graph if "scene_graph" in results else None
    for one in sorted(objects, key=lambda one: -_area(one.box)):
        _draw_box(draw, canvas.size, one)
    taken: list[tuple[float, float, float, float]] = []
    for one in objects:
        x, y = one.box.x_min * canvas.width, one.box.y_min * canvas.height
        _tag(draw, canvas.size, (x, y), one.name, font, one.colour, taken)
    for number, line in enumerate(lines, start=1):
        _draw_text_line(draw, canvas.size, line, number, font, taken)
    if graph is not None:
        _draw_relations(draw, canvas.size, graph, font, taken)
    sections = [
        ("objects", [(one.colour, f"{one.name}  {one.score:.2f}") for one in objects]),
        ("relations", [(_ARROW_COLOUR, told) for told in _told(graph, objects)]),
        ("text", [(_TEXT_COLOUR, f"{number}  {line.text}") for number, line in enumerate(lines, start=1)]),
    ]
    return beside(canvas, [section for section in sections if section[1]], font)


def _objects(
    results: dict[str | None, gateway_pb2.ExpertReport], verbalization: gateway_pb2.Verbalization | None
) -> list[_Drawn]:
    found: list[tuple[int, str, geometry_pb2.Box, geometry_pb2.Mask | None, float]] = []
    expert = gateway_pb2.EXPERT_PANOPTIC
    if "panoptic" in results:
        segments = results["panoptic"].panoptic.segments
        found = [
            (index, one.label, one.box, one.mask, one.score)
            for index, one in enumerate(segments)
            if one.is_thing
        ]
    elif "detection" in results:
        expert = gateway_pb2.EXPERT_DETECTION
        detections = results["detection"].detection.detections
        found = [(index, one.label, one.box, None, one.score) for index, one in enumerate(detections)]
    order = _order_of_speech(verbalization, expert)
    found.sort(key=lambda one: order.get(one[0], len(order) + one[0]))
    seen: Counter[str] = Counter()
    drawn: list[_Drawn] = []
    for place, (_, label, box, mask, score) in enumerate(found):
        seen[label] += 1
        colour = _COLOURS[place % len(_COLOURS)]
        drawn.append(_Drawn(f"{label} #{seen[label]}", box, _mask(mask), colour, score))
    return drawn


def _order_of_speech(verbalization: gateway_pb2.Verbalization | None, expert: int) -> dict[int, int]:
    """Place at which each of an expert's results is first spoken of, by its index."""
    order: dict[int, int] = {}
    for phrase in verbalization.phrases if verbalization is not None else ():
        if phrase.expert == expert:
            for index in phrase.indices:
                order.setdefault(index, len(order))
    return order


def _told(graph: scene_graph_pb2.GenerateSceneGraphResponse | None, objects: Sequence[_Drawn]) -> list[str]:
    """Relations in words, with the names that the objects bear in the picture."""
    if graph is None:
        return []
    names = [_name_of(one, objects) for one in graph.objects]
    return [
        f"{names[edge.subject_index]} {edge.predicate} {names[edge.object_index]}" for edge in graph.relations
    ]


def _name_of(node: scene_graph_pb2.SceneObject, objects: Sequence[_Drawn]) -> str:
    same = [one for one in objects if one.name.rpartition(" #")[0] == node.label]
    best = max(same, key=lambda one: _overlap_share(one.box, node.box), default=None)
    return best.name if best is not None and _overlap_share(best.box, node.box) >= 0.5 else node.label


def _overlap_share(a: geometry_pb2.Box, b: geometry_pb2.Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a.x_max, b.x_max) - max(a.x_min, b.x_min)
    height = min(a.y_max, b.y_max) - max(a.y_min, b.y_min)
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / max(_area(a) + _area(b) - shared, 1e-9)


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


def _draw_box(draw: ImageDraw.ImageDraw, size: tuple[int, int], one: _Drawn) -> None:
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
    number: int,
    font: Font,
    taken: list[tuple[float, float, float, float]],
) -> None:
    points = [(point.x * size[0], point.y * size[1]) for point in line.polygon.points]
    if len(points) >= 3:
        draw.polygon(points, outline=(*_TEXT_COLOUR, 255), fill=(*_TEXT_COLOUR, 50))
        left, top = min(points, key=lambda point: point[0] + point[1])
        _tag(draw, size, (left, top), str(number), font, _TEXT_COLOUR, taken)


def _draw_relations(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    graph: scene_graph_pb2.GenerateSceneGraphResponse,
    font: Font,
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
    font: Font,
    colour: Colour,
    taken: list[tuple[float, float, float, float]],
) -> None:
    """A label on a coloured ground, kept inside the picture and, where it can be, off the labels already there."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 8, bottom - top + 6
    x = min(max(at[0], 0), max(size[0] - width, 0))
    y = min(max(at[1] - height, 0), max(size[1] - height, 0))
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

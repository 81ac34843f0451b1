"""COCO's ways to write down a region, each as cells of a small grid: polygons, run lengths, a PNG of segment ids.

Source of the formats: cocodataset.org, "Data format"; the compressed string of run lengths as pycocotools writes it
(`maskApi.c`, rleToString): six bits a character, differences to the run before the last from the third run on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Grid = NDArray[np.bool_]

_MOST_PIXELS = 1 << 28
"""No picture is larger; a file that says so is malformed."""


class MaskError(ValueError):
    """A region that is not written in any of COCO's ways."""


def segmentation_cells(segmentation: Any, height: int, width: int, rows: int, columns: int) -> Grid:
    """Cells (rows, columns) of a `segmentation` of a picture of ``height`` x ``width`` pixels, sampled at their middle.

    Raises:
        MaskError: it is neither a list of polygons nor run lengths of that size.
    """
    if isinstance(segmentation, Mapping):
        return sampled(run_lengths(segmentation, height, width), rows, columns)
    return _polygons(segmentation, height, width, rows, columns)


def sampled(pixels: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """The pixels (height, width) that lie in the middle of each cell of a grid."""
    height, width = pixels.shape
    down = ((np.arange(rows) + 0.5) * height / rows).astype(np.int64)
    across = ((np.arange(columns) + 0.5) * width / columns).astype(np.int64)
    cells: NDArray[Any] = pixels[down[:, None], across[None, :]]
    return cells


def run_lengths(told: Mapping[str, Any], height: int, width: int) -> Grid:
    """(height, width) pixels of run lengths, column by column, empty first; counts as a list or compressed.

    Raises:
        MaskError: they are malformed, or those of another size.
    """
    if told.get("size") != [height, width] or height * width > _MOST_PIXELS:
        raise MaskError(f"run lengths of size {told.get('size')} in a picture of {[height, width]}")
    counts = told.get("counts")
    runs: Any = _decompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise MaskError("run lengths that are no numbers")
    if sum(runs) != height * width:
        raise MaskError("run lengths that do not fill their picture")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _decompressed(text: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise MaskError("run lengths with characters that are none")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise MaskError("run lengths that break off")
    return runs


def _polygons(told: Any, height: int, width: int, rows: int, columns: int) -> Grid:
    if not isinstance(told, Sequence) or isinstance(told, str) or not told:
        raise MaskError("a region without polygons")
    # Drawn some times as fine as the grid, then sampled: as good as drawing the picture, and never larger than this.
    # An odd number, so that the middle of a cell is the middle of a drawn pixel.
    fine = 9
    canvas = Image.new("1", (columns * fine, rows * fine))
    draw = ImageDraw.Draw(canvas)
    for polygon in told:
        if (
            not isinstance(polygon, Sequence)
            or isinstance(polygon, str)
            or len(polygon) < 6
            or len(polygon) % 2
        ):
            raise MaskError("a polygon of fewer than three points")
        if not all(type(value) in (int, float) and math.isfinite(value) for value in polygon):
            raise MaskError("a polygon with a coordinate that is no number")
        limit = 4.0
        scaled = [
            (
                min(max(x / width, -limit), limit) * columns * fine - 0.5,
                min(max(y / height, -limit), limit) * rows * fine - 0.5,
            )
            for x, y in zip(polygon[::2], polygon[1::2], strict=True)
        ]
        draw.polygon(scaled, fill=1)
    return np.asarray(sampled(np.array(canvas), rows, columns), np.bool_)


def segment_ids(path: Path, rows: int, columns: int) -> NDArray[np.int64]:
    """(rows, columns) segment ids of a panoptic PNG (id = R + 256 G + 65536 B), sampled at the middle of cells.

    Raises:
        MaskError: there is no such picture, or it cannot be read.
    """
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"), np.int64)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise MaskError(f"{path.name} cannot be read: {error}") from error
    ids: NDArray[np.int64] = pixels @ np.array([1, 256, 65536])
    return np.asarray(sampled(ids, rows, columns), np.int64)

"""From the detector's probability map to rotated rectangles: the post-processing of DB.

Differentiable Binarization (Liao et al., AAAI 2020, arXiv:1911.08947) predicts text regions shrunk towards
their middle line. So: threshold, take each connected region's smallest rotated rectangle, score it by the mean
probability inside, and grow it back by area x ratio / perimeter.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pyclipper
from numpy.typing import NDArray

from services.ocr.geometry import Quad, order_corners, quad_size

Contour = cv2.typing.MatLike


@dataclass(frozen=True)
class DbSettings:
    """Constants the detector was published with; sides are in pixels of the map."""

    pixel_threshold: float = 0.3
    unclip_ratio: float = 1.6
    min_side: float = 3.0
    max_regions: int = 400


@dataclass(frozen=True)
class Region:
    """One text line: a quad in pixels of the map (it may reach over the border) and its mean probability."""

    quad: Quad
    score: float


def regions_from_map(
    probabilities: NDArray[np.float32], *, min_score: float, settings: DbSettings
) -> list[Region]:
    """Find text lines in `probabilities` (H, W), values in [0, 1].

    Regions under `min_score` or thinner than `settings.min_side` are dropped. At most `settings.max_regions`
    come back, the best scored, so that a page of noise cannot occupy the device for minutes. Order is by
    contour, which is deterministic but is no reading order.
    """
    # A closing of one pixel to the lower right: letters parted by a single column belong together.
    bitmap = cv2.dilate(
        (probabilities > settings.pixel_threshold).astype(np.uint8), np.ones((2, 2), np.uint8)
    )
    contours, _ = cv2.findContours(bitmap, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    regions = [
        region
        for contour in contours
        if (region := _region(probabilities, contour, min_score, settings)) is not None
    ]
    if len(regions) > settings.max_regions:
        worst_kept = sorted((region.score for region in regions), reverse=True)[settings.max_regions - 1]
        regions = [region for region in regions if region.score >= worst_kept][: settings.max_regions]
    return regions


def _region(
    probabilities: NDArray[np.float32],
    contour: Contour,
    min_score: float,
    settings: DbSettings,
) -> Region | None:
    rectangle = cv2.minAreaRect(contour)
    if min(rectangle[1]) < settings.min_side:
        return None
    quad = order_corners(cv2.boxPoints(rectangle))
    score = _mean_inside(probabilities, quad)
    if score < min_score:
        return None
    width, height = quad_size(quad)
    distance = width * height * settings.unclip_ratio / (2 * (width + height))
    return Region(quad=_grow(quad, distance), score=score)


def _grow(quad: Quad, distance: float) -> Quad:
    # Offsetting with round joins in whole pixels, then boxing again, is what the published thresholds were tuned
    # with; moving the four sides by the exact distance instead changes 1.2 % of all characters read.
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(quad.astype(np.int32).tolist(), pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    grown = max(offset.Execute(distance), key=len)
    return order_corners(cv2.boxPoints(cv2.minAreaRect(np.array(grown, dtype=np.int32))))


def _mean_inside(probabilities: NDArray[np.float32], quad: Quad) -> float:
    height, width = probabilities.shape
    x_min, y_min = np.clip(np.floor(quad.min(axis=0)), 0, (width - 1, height - 1)).astype(int)
    x_max, y_max = np.clip(np.ceil(quad.max(axis=0)), 0, (width - 1, height - 1)).astype(int)
    mask = np.zeros((y_max - y_min + 1, x_max - x_min + 1), dtype=np.uint8)
    inside = (quad - np.array([x_min, y_min], dtype=np.float32)).astype(np.int32)
    cv2.fillPoly(mask, [inside], 1)
    return float(cv2.mean(probabilities[y_min : y_max + 1, x_min : x_max + 1], mask)[0])

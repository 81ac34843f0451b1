"""Cut one text line out of a picture and lay it flat."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from services.ocr.geometry import Quad, quad_size

# A crop this many times taller than wide holds a line that runs downwards.
VERTICAL_RATIO = 1.5
# Recognition sees 48 rows; a line of a 50-megapixel scan needs no more than this to be resampled from.
MAX_CROP_SIDE = 4096


def crop_line(image: NDArray[np.uint8], quad: Quad) -> tuple[NDArray[np.uint8], bool]:
    """Rectify the text inside `quad` (pixels of `image`, see `geometry`).

    Returns the crop (h, w, 3) uint8 and whether it was turned a quarter to the left because the line runs
    downwards. Pixels outside the picture repeat its border. A crop is at least one pixel each way.
    """
    width, height = (max(int(side), 1) for side in quad_size(quad))
    shrink = min(1.0, MAX_CROP_SIDE / max(width, height))
    width, height = max(int(width * shrink), 1), max(int(height * shrink), 1)
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    transform = cv2.getPerspectiveTransform(quad.astype(np.float32), target)
    crop = np.asarray(
        cv2.warpPerspective(
            image, transform, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        ),
        dtype=np.uint8,
    )
    if height >= VERTICAL_RATIO * width:
        return np.ascontiguousarray(np.rot90(crop)), True
    return crop, False


def turn_upside_down(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The crop turned by 180 degrees."""
    return np.ascontiguousarray(crop[::-1, ::-1])


def reading_quad(quad: Quad, *, vertical: bool, upside_down: bool) -> Quad:
    """`quad` with its corners counted from where the line begins, still clockwise in the picture.

    A line that runs downwards was laid flat by a quarter turn to the left, so it begins at the upper right
    corner of its quad; one that stood on its head begins at the opposite corner.
    """
    start = (1 if vertical else 0) + (2 if upside_down else 0)
    return np.roll(quad, -start, axis=0)

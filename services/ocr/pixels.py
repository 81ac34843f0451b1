"""From RGB pixels to the planes that all three networks take."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def resized_planes(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.float32]:
    """(h, w, 3) RGB uint8, scaled bilinearly, to (3, height, width) float32 in [-1, 1], the blue plane first.

    Blue first, because the networks were trained on pictures read that way. One pass over each plane in float32: going
    through a float64 picture and a transposed copy takes six times as long.
    """
    scaled: NDArray[np.generic] = image
    if image.shape[:2] != (height, width):
        scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    planes = np.empty((3, height, width), dtype=np.float32)
    for target, channel in enumerate((2, 1, 0)):
        np.multiply(scaled[..., channel], np.float32(1 / 127.5), out=planes[target])
    planes -= 1.0
    return planes

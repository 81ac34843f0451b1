"""From a picture to the input of the text detector: which size, and how to get back.

The detector is fully convolutional with a stride of 32. It was trained on text some 10 to 60 pixels high, so
small pictures are enlarged until their short side has `min_side` pixels; the long side never exceeds
`max_side`, which bounds time and memory whatever is sent. Very wide strips are given rows of black above and
below, because a region that touches the border is cut off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.ocr.geometry import Quad
from services.ocr.pixels import resized_planes
from serving.engine.rows import Row
from serving.preprocess import Picture, Recipe

STRIDE = 32
# A strip wider than this many times its height is padded (rows, not pixels stretched).
WIDEST_STRIP = 8
_MIDDLE = (127.5, 127.5, 127.5)


@dataclass(frozen=True)
class Frame:
    """How detector coordinates map to the picture. All sizes in pixels; `pad_top` in picture pixels."""

    width: int
    height: int
    pad_top: int
    padded_height: int
    input_width: int
    input_height: int

    def to_image(self, quad: Quad) -> Quad:
        """A quad of the detector's map in whole pixels of the picture, held inside the picture.

        Whole, because cutting an upright line at fractions of a pixel would blur every letter.
        """
        scale = np.array(
            [self.width / self.input_width, self.padded_height / self.input_height], dtype=np.float32
        )
        points = np.round(quad * scale) - np.array([0, self.pad_top], dtype=np.float32)
        limit = np.array([self.width, self.height], dtype=np.float32)
        inside: Quad = np.clip(points, 0, limit).astype(np.float32)
        return inside


def plan_frame(height: int, width: int, *, min_side: int, max_side: int) -> Frame:
    """Choose padding and input size for a picture of `height` x `width` pixels.

    Input sides are multiples of 32, at least 32 and at most `max_side` rounded down to one.
    """
    padded = height
    if width > WIDEST_STRIP * height:
        padded = 2 * max(width // WIDEST_STRIP, 1)
        padded = max(padded, height)
    short, long = sorted((padded, width))
    scale = min(max(1.0, min_side / short), max_side / long)
    return Frame(
        width=width,
        height=height,
        pad_top=(padded - height) // 2,
        padded_height=padded,
        input_width=_to_stride(width * scale, max_side),
        input_height=_to_stride(padded * scale, max_side),
    )


def _to_stride(side: float, max_side: int) -> int:
    most = max(max_side // STRIDE, 1)
    return STRIDE * min(max(round(int(side) / STRIDE), 1), most)


def detector_input(image: NDArray[np.uint8], frame: Frame) -> NDArray[np.float32]:
    """(H, W, 3) RGB uint8 to (1, 3, input_height, input_width) float32 BGR planes in [-1, 1]."""
    if frame.padded_height != frame.height:
        below = frame.padded_height - frame.height - frame.pad_top
        image = np.pad(image, ((frame.pad_top, below), (0, 0), (0, 0)))
    return resized_planes(image, frame.input_width, frame.input_height)[None]


def network_input(picture: Picture, frame: Frame) -> Row:
    """`detector_input` of one picture without the batch axis, on the device if that is where the picture is.

    A strip is padded before it is scaled, which the device does not do: it comes to the host for that.
    """
    if not isinstance(picture, np.ndarray):
        if frame.padded_height == frame.height:
            return picture.prepare(input_recipe(frame))
        picture = picture.to_host()
    made: NDArray[np.float32] = detector_input(picture, frame)[0]
    return made


def input_recipe(frame: Frame) -> Recipe:
    """`detector_input` of a picture that needs no padding, in words that a device can follow."""
    size = (frame.input_height, frame.input_width)
    return Recipe("bilinear", *size, *size, mean=_MIDDLE, deviation=_MIDDLE, reversed_channels=True)

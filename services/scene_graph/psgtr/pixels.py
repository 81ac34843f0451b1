"""From a picture to the network's input, as OpenPSG's test pipeline prepares it. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from serving.preprocess.recipe import IMAGENET_DEVIATION, IMAGENET_MEAN, Recipe

Float = NDArray[np.float32]

STRIDE = 32
"""Input sides are padded to multiples of this, in pixels."""

MASK_STRIDE = 4
"""A cell of a mask is this many pixels of the input a side."""

LONGER, SHORTER = 1333, 800
"""The picture is scaled, either way, until its shorter side is SHORTER or its longer one LONGER pixels."""

SQUASHED = (490, 490)
"""What MoAI makes of every picture first, (height, width) in pixels."""

_MEAN = np.array([123.675, 116.28, 103.53], np.float32)[:, None, None]
_DEVIATION = np.array([58.395, 57.12, 57.375], np.float32)[:, None, None]


@dataclass(frozen=True)
class Fit:
    """Where a picture lies in the network's input: upper left, scaled to `scaled_height` x `scaled_width`, then padding
    to `input_height` x `input_width`. `height`, `width`: the picture as sent. All in pixels."""

    height: int
    width: int
    scaled_height: int
    scaled_width: int
    input_height: int
    input_width: int

    @property
    def mask_rows(self) -> int:
        """Rows of a mask that hold a part of the picture, the others are padding."""
        return -(-self.scaled_height // MASK_STRIDE)

    @property
    def mask_columns(self) -> int:
        """Columns of a mask that hold a part of the picture."""
        return -(-self.scaled_width // MASK_STRIDE)


def network_input(
    image: NDArray[np.uint8], *, longer: int = LONGER, shorter: int = SHORTER, as_published: bool = False
) -> tuple[Float, Float, Fit]:
    """`image`: (H, W, 3) uint8 RGB. Returns pixels (3, h, w) and mask (h, w), float32, and the geometry.

    `as_published`: as MoAI does, which squashes the picture to 490 x 490 without antialiasing and hands RGB to a
    pipeline that takes it for BGR, so that red and blue are exchanged.
    """
    height, width = image.shape[:2]
    if as_published:
        image = np.ascontiguousarray(squash(image)[..., ::-1])
    fit = replace(
        fitted(image.shape[0], image.shape[1], longer=longer, shorter=shorter), height=height, width=width
    )
    size = (fit.scaled_width, fit.scaled_height)
    resized = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.float32)
    pixels = np.zeros((3, fit.input_height, fit.input_width), np.float32)
    pixels[:, : fit.scaled_height, : fit.scaled_width] = (resized.transpose(2, 0, 1) - _MEAN) / _DEVIATION
    return pixels, picture_mask(fit), fit


def fitted(height: int, width: int, *, longer: int = LONGER, shorter: int = SHORTER) -> Fit:
    """Where a picture of `height` x `width` pixels comes to lie."""
    scaled_height, scaled_width = _scaled(height, width, longer, shorter)
    return Fit(height, width, scaled_height, scaled_width, _padded(scaled_height), _padded(scaled_width))


def picture_mask(fit: Fit) -> Float:
    """(h, w) float32: 1 where the picture lies, 0 where the padding does."""
    mask = np.zeros((fit.input_height, fit.input_width), np.float32)
    mask[: fit.scaled_height, : fit.scaled_width] = 1
    return mask


def input_recipe(fit: Fit) -> Recipe:
    """The pixels of `network_input`, not as published, in words that a device can follow."""
    scaled, size = (fit.scaled_height, fit.scaled_width), (fit.input_height, fit.input_width)
    return Recipe("bilinear", *scaled, *size, IMAGENET_MEAN, IMAGENET_DEVIATION)


def squash(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 -> (490, 490, 3) uint8, bilinear without antialiasing, within one grey level of torchvision's."""
    height, width = SQUASHED
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _scaled(height: int, width: int, longer: int, shorter: int) -> tuple[int, int]:
    scale = min(longer / max(height, width), shorter / min(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def _padded(side: int) -> int:
    return -(-side // STRIDE) * STRIDE

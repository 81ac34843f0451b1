"""From a picture to the network's square input, as transformers' image processor for EoMT prepares it. No torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.preprocess.recipe import IMAGENET_DEVIATION, IMAGENET_MEAN, Recipe

Float = NDArray[np.float32]

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]


def network_input(image: NDArray[np.uint8], side: int) -> Float:
    """`image`: (H, W, 3) uint8 RGB. Returns (3, side, side) float32, scaled to 0-1 and normalised as ImageNet is.

    The picture keeps its ratio and lies in the upper left corner; the rest is black *before* normalisation.
    """
    height, width = scaled_size(image.shape[0], image.shape[1], side)
    canvas = np.zeros((side, side, 3), np.uint8)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    canvas[:height, :width] = np.asarray(resized)
    scaled = canvas.transpose(2, 0, 1).astype(np.float32) * np.float32(1 / 255)
    normalised: Float = (scaled - _MEAN) / _DEVIATION
    return np.ascontiguousarray(normalised)


def input_recipe(height: int, width: int, side: int) -> Recipe:
    """`network_input` of a picture of that size, in words that a device can follow."""
    scaled = scaled_size(height, width, side)
    return Recipe("antialiased", *scaled, side, side, IMAGENET_MEAN, IMAGENET_DEVIATION, padding=0.0)


def scaled_size(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) of the picture in the input: the longer one is `side`, or a pixel less where that is cut off.

    Rounded as `get_size_with_aspect_ratio` of transformers rounds; but at least 1 and at most `side`, which that
    exceeds for pictures of very unequal sides.
    """
    longer, shorter = float(max(height, width)), float(min(height, width))
    if longer == shorter:
        return side, side
    exact = side * shorter / longer
    other = round(exact)
    if shorter == other:  # nothing to scale
        long = int(longer)
    else:
        long = int(exact * height / width) if width < height else int(exact * width / height)
    other, long = max(other, 1), min(max(long, 1), side)
    return (long, other) if width < height else (other, long)

"""From a picture to the network's input, as transformers' image processor prepares it. No torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.panoptic.mask2former.bilinear import Bilinear, Float
from serving.preprocess.recipe import IMAGENET_DEVIATION, IMAGENET_MEAN, Recipe

SQUASHED = (490, 490)
"""What the published systems make of every picture first, (height, width) in pixels."""

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]


def network_input(image: NDArray[np.uint8], size: tuple[int, int], *, squash_first: bool = False) -> Float:
    """`image`: (H, W, 3) uint8 RGB. Returns (3, *size) float32, scaled to 0-1 and normalised as ImageNet is.

    The picture is stretched to `size` (height, width) with antialiasing. `squash_first`: to 490 x 490 without it
    before, as CoLLaVO and MoAI do.
    """
    if squash_first:
        image = squash(image)
    height, width = size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    scaled = np.asarray(resized, np.float32).transpose(2, 0, 1) * np.float32(1 / 255)
    normalised: Float = (scaled - _MEAN) / _DEVIATION
    return np.ascontiguousarray(normalised)


def input_recipe(size: tuple[int, int]) -> Recipe:
    """`network_input` of a picture that is not squashed first, in words that a device can follow."""
    height, width = size
    return Recipe("antialiased", height, width, height, width, IMAGENET_MEAN, IMAGENET_DEVIATION)


def squash(image: NDArray[np.uint8], size: tuple[int, int] = SQUASHED) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 -> (*size, 3) uint8, bilinear without antialiasing, rounded half to even."""
    # Three channels at once: the kernel that adds the four neighbours up, at every size.
    resize = Bilinear((image.shape[0], image.shape[1]), size, at_once=True)
    channels = [np.rint(resize(image[..., channel].astype(np.float32))) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)

"""From a decoded picture to the pixel values of the vision tower (CLIP ViT-L/14), as both published systems do it.

The picture is squashed to a square, without keeping its aspect ratio, in one of two ways that differ by up to 80 grey
levels: the demo interpolates bilinearly without antialiasing, the evaluation resizes with PIL (antialiased when it
shrinks). Values are normalised on the 0..255 scale.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 490
"""Side of the square in pixels; 35 patches of 14."""
PATCH = 14

Float: TypeAlias = np.floating[Any]

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def image_tokens(side: int = SIDE) -> int:
    """Image tokens of a square picture: one for each whole patch."""
    return (side // PATCH) ** 2


def squash_demo(image: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 -> (3, side, side) uint8, bilinear without antialiasing, rounded half to even.

    The arithmetic is that of PyTorch's kernel for one thread, fused multiply-adds included: its kernel for several
    threads groups the four products differently, which moves a grey level here and there.
    """
    top, bottom, row_weight = _neighbours(image.shape[0], side)
    left, right, column_weight = _neighbours(image.shape[1], side)
    below = row_weight[:, None, None]
    beside = column_weight[None, :, None]
    above, before = np.float32(1) - below, np.float32(1) - beside
    pixels = image.astype(np.float32)
    total = pixels[top][:, right] * (above * beside)
    total = _fused(pixels[top][:, left], above * before, total)
    total = _fused(pixels[bottom][:, left], below * before, total)
    total = _fused(pixels[bottom][:, right], below * beside, total)
    return np.ascontiguousarray(np.rint(total).astype(np.uint8).transpose(2, 0, 1))


def _neighbours(size: int, side: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """For each of `side` pixels along an axis of `size`: the two source pixels and the weight of the second."""
    centres = np.arange(side, dtype=np.float32) + np.float32(0.5)
    scale = np.float32(size) / np.float32(side)
    places = np.maximum(_fused(centres, scale, np.float32(-0.5)), np.float32(0))
    first = np.minimum(places.astype(np.int64), size - 1)
    second = np.minimum(first + 1, size - 1)
    return first, second, np.clip(places - first.astype(np.float32), 0, 1).astype(np.float32)


def _fused(
    factor: NDArray[np.float32],
    other: NDArray[np.float32] | np.float32,
    term: NDArray[np.float32] | np.float32,
) -> NDArray[np.float32]:
    """factor * other + term in float32, rounded once: the product of two float32 is exact in float64."""
    total: NDArray[np.float64] = factor.astype(np.float64) * other + term
    return total.astype(np.float32)


def squash_eval(image: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 -> (3, side, side) uint8, PIL bilinear."""
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))


def normalisation_tables(dtype: type[np.float32] | type[np.float16]) -> tuple[NDArray[Float], NDArray[Float]]:
    """Mean and standard deviation per channel, times 255, both (3,); constants and product are of `dtype`."""
    scale: NDArray[Float] = np.array(255, dtype)
    mean: NDArray[Float] = np.array(_MEAN, dtype)
    std: NDArray[Float] = np.array(_STD, dtype)
    return mean * scale, std * scale


def normalise(
    values: NDArray[Any], dtype: type[np.float32] | type[np.float16] = np.float32
) -> NDArray[Float]:
    """(..., 3, H, W) of any type -> the same shape in `dtype`: (value - mean * 255) / (std * 255).

    Under float16 tables and arithmetic are float16 too, as in the released loader.
    """
    mean, std = (table[:, None, None] for table in normalisation_tables(dtype))
    levels: NDArray[Float] = values.astype(dtype)
    normalised: NDArray[Float] = (levels - mean) / std
    return normalised

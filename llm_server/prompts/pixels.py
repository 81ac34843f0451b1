"""From a decoded picture to the pixel values of the vision tower (CLIP ViT-L/14), as both published systems do it.

The picture is squashed to a square, without keeping its aspect ratio, in one of two ways that differ by up to 80 grey
levels: the demo interpolates bilinearly without antialiasing, the evaluation resizes with PIL (antialiased when it
shrinks). Values are normalised on the 0..255 scale.
torch is imported where it is needed, for bit-exact interpolation.
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
    """(H, W, 3) uint8 -> (3, side, side) uint8, bilinear without antialiasing, rounded half to even."""
    import torch
    from torch.nn import functional

    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].to(torch.float32)
    if image.shape[:2] != (side, side):
        pixels = functional.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)
    squashed: NDArray[np.uint8] = pixels[0].round().to(torch.uint8).contiguous().numpy()
    return squashed


def squash_eval(image: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 -> (3, side, side) uint8, PIL bilinear."""
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))


def normalisation_tables(dtype: type[np.float32] | type[np.float16]) -> tuple[NDArray[Float], NDArray[Float]]:
    """Mean and standard deviation per channel, times 255, both (3,) of `dtype` (rounded after the product)."""
    scale = np.float32(255)
    return (
        (np.array(_MEAN, np.float32) * scale).astype(dtype),
        (np.array(_STD, np.float32) * scale).astype(dtype),
    )


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


def stretch_positions(table: NDArray[np.float32], grid: int) -> NDArray[np.float32]:
    """Position table of the tower for another number of patches.

    Args:
        table: (1 + g * g, C) float32, class token first.
        grid: wanted patches per side.

    Returns:
        (1 + grid * grid, C) float32: class row as it was, patch rows stretched bicubically and rounded through
        float16, as the published towers do.
    """
    import torch
    from torch.nn import functional

    side = round((len(table) - 1) ** 0.5)
    patches = torch.from_numpy(np.ascontiguousarray(table[1:])).reshape(1, side, side, -1).permute(0, 3, 1, 2)
    stretched = functional.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
    rows = stretched.permute(0, 2, 3, 1).reshape(grid * grid, -1).to(torch.float16).to(torch.float32)
    return np.concatenate([table[:1], rows.numpy()])

"""The position table of the vision tower (CLIP ViT-L/14, 24 x 24 patches), stretched to a larger grid."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional


def stretch_positions(table: NDArray[np.float32], grid: int) -> NDArray[np.float32]:
    """Position table of the tower for another number of patches.

    Args:
        table: (1 + g * g, C) float32, class token first.
        grid: wanted patches per side.

    Returns:
        (1 + grid * grid, C) float32: class row as it was, patch rows stretched bicubically and rounded through
        float16, as the published towers do.
    """
    side = round((len(table) - 1) ** 0.5)
    patches = torch.from_numpy(np.ascontiguousarray(table[1:])).reshape(1, side, side, -1).permute(0, 3, 1, 2)
    stretched = functional.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
    rows = stretched.permute(0, 2, 3, 1).reshape(grid * grid, -1).to(torch.float16).to(torch.float32)
    return np.concatenate([table[:1], rows.numpy()])

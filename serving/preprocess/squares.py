"""A picture padded to a square, smoothed where it shrinks, and scaled, in torch on whatever device it is on.

Along each axis that is one linear map from pixels to pixels. Both maps are made on the device as matrices, so that the
padded square, a gigabyte for a very long picture, is never made, and nothing is copied there.
"""

from __future__ import annotations

import math

import numpy as np
import torch


def square_levels(levels: torch.Tensor, *, side: int, padding: float) -> torch.Tensor:
    """`levels`: (3, H, W) float32. Returns (3, side, side) float32 of the square whose upper left corner it fills, the
    rest being `padding`; see `SquareRecipe`."""
    height, width = levels.shape[1:]
    square = max(height, width)
    rows = _axis(height, square, side, levels.device)
    columns = _axis(width, square, side, levels.device)
    # The longer side first, so that less is left.
    if height >= width:
        scaled = torch.matmul(torch.matmul(rows, levels), columns.T)
    else:
        scaled = torch.matmul(rows, torch.matmul(levels, columns.T))
    inside = torch.outer(rows.sum(dim=1), columns.sum(dim=1))
    return scaled + padding * (1 - inside)


def _axis(length: int, square: int, side: int, device: torch.device) -> torch.Tensor:
    """(side, length) float32: the weight of each pixel of an axis in each output; what weight is missing from 1 lies in
    the padding behind it.
    """
    last = square - 1
    scale = float(np.float32(square) / np.float32(side))
    middles = ((torch.arange(side, dtype=torch.float64, device=device) + 0.5) * scale - 0.5).to(torch.float32)
    middles = middles.clamp(min=0)
    low = middles.to(torch.int64).clamp(max=last)
    above = middles - low
    positions = torch.stack([low, (low + 1).clamp(max=last)], dim=1)
    weights = torch.stack([1 - above, above], dim=1)
    deviation = (square / side - 1) / 2
    if deviation > 0:
        radius = math.ceil(3 * deviation)
        offsets = torch.arange(-radius, radius + 1, device=device)
        kernel = torch.exp(-0.5 * (offsets.to(torch.float64) / deviation) ** 2)
        around = (positions[:, :, None] + offsets).abs()
        around = torch.where(around >= square, 2 * last - around, around)
        positions = around.reshape(side, -1)
        weights = (weights[:, :, None] * (kernel / kernel.sum())).reshape(side, -1).to(torch.float32)
    weights = weights.masked_fill(positions >= length, 0.0)
    matrix = torch.zeros((side, length), dtype=torch.float32, device=device)
    return matrix.scatter_add_(1, positions.clamp(max=length - 1), weights)

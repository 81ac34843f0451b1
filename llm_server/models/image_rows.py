"""Which rows of a flattened batch are image tokens, and what the crayon prompt says of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageRows:
    """Image positions of one forward pass over states (B, T, H), as rows of (B * T, H).

    ``index`` (n,) int64 are the image rows. ``crayon`` (m, H) are the crayon features that belong to the rows
    ``crayon_index`` (m,) int64, a subset of ``index``; both are None where no request has a crayon prompt.
    """

    index: Tensor
    crayon_index: Tensor | None = None
    crayon: Tensor | None = None


def image_rows(
    image: Tensor, crayon: Tensor | None = None, with_crayon: Tensor | None = None
) -> ImageRows | None:
    """Rows for an image mask.

    Args:
        image: (B, T) bool, on the CPU if the caller wants no wait for the device.
        crayon: (K, N, H) crayon features of the K requests that have them, N image tokens each.
        with_crayon: (B,) bool, which requests those are; all, if None.

    Returns:
        None if no position is an image token: then no low-rank branch is computed at all.
    """
    index = image.flatten().nonzero()[:, 0]
    if not len(index):
        return None
    if crayon is None:
        return ImageRows(index)
    chosen = image if with_crayon is None else image & with_crayon[:, None]
    rows = chosen.flatten().nonzero()[:, 0]
    features = crayon.flatten(0, 1)
    if len(rows) != len(features):
        raise ValueError(f"{len(features)} crayon features for {len(rows)} image positions")
    return (
        ImageRows(index.to(crayon.device), rows.to(crayon.device), features)
        if len(rows)
        else ImageRows(index)
    )


def at(rows: ImageRows | None, device: torch.device) -> ImageRows | None:
    """The same rows with their indices on ``device``."""
    if rows is None or rows.index.device == device:
        return rows
    return ImageRows(
        rows.index.to(device),
        None if rows.crayon_index is None else rows.crayon_index.to(device),
        rows.crayon,
    )

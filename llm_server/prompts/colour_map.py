"""MoAI's colour picture of a panoptic map: each segment in a colour of the PASCAL palette.

Two quirks are kept, because the published weights were trained with them: the palette is indexed by segment id, not
by class, and its values lie in 0..1 although they are then normalised with tables for 0..255 (`pixels.normalise`).
Pure: numpy only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ENTRIES = 134
"""Colours of the palette: 0 is black, for no segment."""


class PaletteRangeError(IndexError):
    """A segment id has no colour."""


def palette(entries: int = ENTRIES) -> NDArray[np.uint8]:
    """(entries, 3) uint8 RGB: bits 0, 1, 2 of the index give red, green, blue their highest bit, bits 3, 4, 5 the
    next, and so on (the PASCAL VOC colours)."""
    index = np.arange(entries)
    colours = np.zeros((entries, 3), np.uint8)
    for shift in range(8):
        for channel in range(3):
            bit = (index >> (3 * shift + channel)) & 1
            colours[:, channel] |= (bit << (7 - shift)).astype(np.uint8)
    return colours


def colour_map(grid: NDArray[np.integer]) -> NDArray[np.float64]:
    """(H, W) segment ids -> (H, W, 3) float64 RGB in 0..1; ids of 0 and below are black.

    Raises:
        PaletteRangeError: a segment id is beyond the palette.
    """
    grid = np.maximum(grid, 0)
    highest = int(grid.max(initial=0))
    if highest >= ENTRIES:
        raise PaletteRangeError(f"segment id {highest} is beyond the {ENTRIES} colours of the palette")
    colours: NDArray[np.float64] = (palette() / 255.0)[grid]
    return colours


def as_model_input(colours: NDArray[np.float64]) -> NDArray[np.float16]:
    """(H, W, 3) float64 -> (1, 3, H, W) float16, as it reaches the image processor."""
    return np.ascontiguousarray(colours.transpose(2, 0, 1)[None].astype(np.float16))

"""What can be measured between every two objects of a picture: contact, overlap, containment, order, size.

Everything is an array over ordered pairs, `[subject, object]`, computed at once. Lengths are in cells of a
grid whose longer side has at most `GRID` cells; x grows to the right, y downwards. No measure knows left from
right, so a mirrored picture has the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

GRID = 256
"""Cells along the longer side of the grid that masks are compared on."""

REACH = 2
"""Masks whose cells come this close, in cells, are in contact (about 1 % of the picture's longer side)."""

Bool = NDArray[np.bool_]
Real = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """N objects of one picture.

    `labels`: (N,) int64 class ids. `scores`: (N,) in 0-1. `boxes`: (N, 4) xyxy in 0-1. `masks`: (N, h, w)
    bool, the visible pixels, at the resolution of the grid.
    """

    labels: NDArray[np.int64]
    scores: Real
    boxes: Real
    masks: Bool

    def __post_init__(self) -> None:
        count = len(self.labels)
        if self.scores.shape != (count,) or self.boxes.shape != (count, 4) or len(self.masks) != count:
            raise ValueError("the arrays of a scene do not have one row per object")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Measures:
    """The measures of a scene. Pair arrays are (N, N) `[subject, object]`; single ones are (N,)."""

    scene: Scene

    @cached_property
    def boxes(self) -> Real:
        """(N, 4) xyxy in cells."""
        height, width = self.scene.masks.shape[1:]
        cells: Real = self.scene.boxes * np.array([width, height, width, height], np.float64)
        return cells

    @cached_property
    def top(self) -> Real:
        """(N,) upper edge."""
        return self.boxes[:, 1]

    @cached_property
    def bottom(self) -> Real:
        """(N,) lower edge."""
        return self.boxes[:, 3]

    @cached_property
    def height(self) -> Real:
        """(N,), never zero."""
        return np.maximum(self.bottom - self.top, 1e-6)

    @cached_property
    def width(self) -> Real:
        """(N,), never zero."""
        return np.maximum(self.boxes[:, 2] - self.boxes[:, 0], 1e-6)

    @cached_property
    def middle(self) -> Real:
        """(N,) vertical centre."""
        return (self.top + self.bottom) / 2

    @cached_property
    def cut_below(self) -> Bool:
        """(N,) whether the picture's lower edge cuts the object off, so that where it stands is unknown."""
        cut: Bool = self.scene.boxes[:, 3] > 0.985
        return cut

    @cached_property
    def area(self) -> Real:
        """(N,) visible cells."""
        cells: Real = np.count_nonzero(self.scene.masks, axis=(1, 2)).astype(np.float64)
        return cells

    @cached_property
    def relative_area(self) -> Real:
        """Visible area of the subject over that of the object."""
        ratio: Real = self.area[:, None] / np.maximum(self.area[None, :], 1)
        return ratio

    @cached_property
    def overlap(self) -> Real:
        """Cells that both masks claim, over the area of the subject."""
        return _shared(self.scene.masks, self.scene.masks) / np.maximum(self.area[:, None], 1)

    @cached_property
    def contact(self) -> Real:
        """How much of the two outlines runs along each other, in 0-1 of the smaller one's size. Symmetric."""
        grown = _grown(self.scene.masks, REACH)
        near = _shared(grown, self.scene.masks)
        near = np.minimum(near, near.T)
        size = np.sqrt(np.maximum(np.minimum(self.area[:, None], self.area[None, :]), 1))
        share: Real = np.clip(near / (REACH * size), 0, 1)
        return share

    @cached_property
    def covering(self) -> Real:
        """The part of the subject that lies within the outline of the object but is not the object's own.

        Cells between cells of the object, in their row or in their column: what is seen there stands before
        the object, or shows through it.
        """
        return _shared(self.scene.masks, self._gaps) / np.maximum(self.area[:, None], 1)

    @cached_property
    def enclosed(self) -> Real:
        """The part of the subject that lies within the outline of the object, its own cells included."""
        outline = self._gaps | self.scene.masks
        return _shared(self.scene.masks, outline) / np.maximum(self.area[:, None], 1)

    @cached_property
    def _gaps(self) -> Bool:
        masks = self.scene.masks
        return (_between(masks, axis=1) | _between(masks, axis=2)) & ~masks

    @cached_property
    def shared_width(self) -> Real:
        """Length of the common part of the horizontal extents, negative for a gap. Symmetric."""
        return _common(self.boxes[:, 0], self.boxes[:, 2])

    @cached_property
    def shared_height(self) -> Real:
        """Length of the common part of the vertical extents, negative for a gap. Symmetric."""
        return _common(self.top, self.bottom)

    @cached_property
    def within_width(self) -> Real:
        """The part of the subject's width that is within the object's, 0-1."""
        return np.clip(self.shared_width, 0, None) / self.width[:, None]

    @cached_property
    def within_height(self) -> Real:
        """The part of the subject's height that is within the object's, 0-1."""
        return np.clip(self.shared_height, 0, None) / self.height[:, None]

    @cached_property
    def within_box(self) -> Real:
        """The part of the subject's box that is within the object's, 0-1."""
        return self.within_width * self.within_height

    @cached_property
    def depth_down(self) -> Real:
        """Where the subject's lower edge is on the object's height: 0 at its upper edge, 1 at its lower."""
        return (self.bottom[:, None] - self.top[None, :]) / self.height[None, :]

    @cached_property
    def depth_middle(self) -> Real:
        """Where the subject's middle is on the object's height: 0 at its upper edge, 1 at its lower."""
        return (self.middle[:, None] - self.top[None, :]) / self.height[None, :]


def ramp(values: Real, zero: float, one: float) -> Real:
    """0 where `values` is at `zero`, 1 at `one`, a straight line between, clipped outside. Either direction."""
    return np.clip((values - zero) / (one - zero), 0, 1)


def _shared(first: Bool, second: Bool) -> Real:
    """(N, N): cells that mask i of `first` shares with mask j of `second`."""
    count = len(first)
    flat_first = first.reshape(count, -1).astype(np.float32)
    flat_second = flat_first if second is first else second.reshape(count, -1).astype(np.float32)
    return (flat_first @ flat_second.T).astype(np.float64)  # counts below 2**24 are exact


def _grown(masks: Bool, reach: int) -> Bool:
    """Each mask with every cell within `reach` rows and columns of it."""
    for _ in range(reach):
        wider = masks.copy()
        wider[:, 1:] |= masks[:, :-1]
        wider[:, :-1] |= masks[:, 1:]
        masks = wider.copy()
        masks[:, :, 1:] |= wider[:, :, :-1]
        masks[:, :, :-1] |= wider[:, :, 1:]
    return masks


def _between(masks: Bool, *, axis: int) -> Bool:
    """Cells from the first to the last cell of the mask along `axis`, in each of its rows or columns."""
    length = masks.shape[axis]
    shape = [1, 1, 1]
    shape[axis] = length
    place = np.arange(length, dtype=np.int16).reshape(shape)
    first = np.expand_dims(masks.argmax(axis=axis), axis).astype(np.int16)
    last = length - 1 - np.expand_dims(np.flip(masks, axis=axis).argmax(axis=axis), axis).astype(np.int16)
    between: Bool = (place >= first) & (place <= last) & masks.any(axis=axis, keepdims=True)
    return between


def _common(low: Real, high: Real) -> Real:
    shared: Real = np.minimum(high[:, None], high[None, :]) - np.maximum(low[:, None], low[None, :])
    return shared

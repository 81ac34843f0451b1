"""Binary masks and the two ways they travel: COCO's compressed run lengths and grey PNG.

Run lengths go down the columns, as `pycocotools.mask` has them. The code is not pycocotools': its decoder
trusts the counts it is given, and masks arrive here from other processes; its encoder reads every pixel of
the picture, and most masks fill a small window of it.

Coordinates are whole pixels, x to the right, y down, x1 and y1 exclusive.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

MAX_MASK_PIXELS = 50_000_000
"""The most pixels a mask may declare; above it decoding refuses before it allocates."""

_MAX_DIGITS = 7  # 5 bits each: enough for any count below MAX_MASK_PIXELS, with its sign

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rle:
    """A mask as COCO's compressed run lengths.

    `counts` is ASCII: each number in 5-bit digits with a continuation bit, each from the fourth on as the
    difference to the one two before it; the runs alternate, beginning outside the mask.
    """

    height: int
    width: int
    counts: bytes


def encode_rle(mask: Mask) -> Rle:
    """Encode a (H, W) bool mask. Raises ValueError for another number of dimensions."""
    height, width = _two_dimensions(mask)
    return encode_rle_window(mask, top=0, left=0, height=height, width=width)


def encode_rle_window(window: Mask, *, top: int, left: int, height: int, width: int) -> Rle:
    """Encode a mask of (height, width) that is false outside of the (h, w) bool `window` at (top, left).

    Costs as much as the window is wide. Raises ValueError when the window does not lie within the mask.
    """
    return encode_rle_windows([(window, top, left)], height=height, width=width)[0]


def encode_rle_windows(windows: Sequence[tuple[Mask, int, int]], *, height: int, width: int) -> list[Rle]:
    """As `encode_rle_window`, for all masks of one picture at once: each (window, top, left)."""
    return encode_rle_edges([_edges(*one, height, width) for one in windows], height=height, width=width)


def encode_rle_edges(masks: Sequence[NDArray[np.int64]], *, height: int, width: int) -> list[Rle]:
    """Encode the masks of one picture of (height, width) that are known by where their runs begin and end.

    Each (2 n,) positions in the picture read down its columns, ascending: the first pixel of a run, one past its
    last, the first of the next. Not checked: they come from arrays of this process.
    """
    if height * width == 0:
        return [Rle(height, width, b"") for _ in masks]
    runs = [np.diff(edges, prepend=0, append=height * width) for edges in masks]
    runs = [one[:-1] if one[-1] == 0 and len(one) > 1 else one for one in runs]
    return [Rle(height, width, counts) for counts in _written(runs)]


def _edges(window: Mask, top: int, left: int, height: int, width: int) -> NDArray[np.int64]:
    rows, columns = _two_dimensions(window)
    if top < 0 or left < 0 or top + rows > height or left + columns > width:
        raise ValueError(f"a window of {rows}x{columns} at ({top}, {left}) leaves the {height}x{width} mask")
    # One false before and one after: then every run inside the mask has a beginning and an end.
    strip = np.zeros(columns * height + 2, np.bool_)
    strip[1:-1].reshape(columns, height)[:, top : top + rows] = window.T
    return np.flatnonzero(strip[1:] != strip[:-1]) + left * height


def decode_rle(rle: Rle) -> Mask:
    """Decode to a (H, W) bool mask.

    Raises ValueError when the counts are malformed, do not add up to height x width, or the mask is larger
    than MAX_MASK_PIXELS.
    """
    runs = _runs(rle)
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(rle.width, rle.height).T


def rle_area(rle: Rle) -> int:
    """The number of pixels inside, without decoding them. Raises ValueError as `decode_rle` does."""
    return int(_runs(rle)[1::2].sum())


def encode_png(mask: Mask) -> bytes:
    """Encode a (H, W) bool mask as an 8-bit grey PNG, 255 inside. Raises ValueError if it has no pixels."""
    height, width = _two_dimensions(mask)
    if mask.size == 0:
        raise ValueError(f"a PNG cannot hold a mask of {height}x{width}")
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def decode_png(data: bytes) -> Mask:
    """Decode a grey or 1-bit PNG to a (H, W) bool mask, true where the value is at least half.

    Raises ValueError when it is not a readable PNG, has colours, or is larger than MAX_MASK_PIXELS.
    """
    try:
        picture = PngImagePlugin.PngImageFile(io.BytesIO(data))
        _check_size(picture.height, picture.width)
        if picture.mode not in ("1", "L"):
            raise ValueError(f"a mask PNG is grey, not {picture.mode}")
        return np.asarray(picture.convert("L")) >= 128
    except ValueError:
        raise
    except Exception as error:  # Pillow's parsers raise a dozen unrelated types on damaged data
        raise ValueError(f"not a readable mask PNG: {error}") from error


def box_from_mask(mask: Mask) -> tuple[int, int, int, int] | None:
    """The tightest (x0, y0, x1, y1) around a (H, W) mask, x1 and y1 exclusive; None if it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    return int(columns[0]), top, int(columns[-1]) + 1, bottom


def _two_dimensions(mask: Mask) -> tuple[int, int]:
    if mask.ndim != 2:
        raise ValueError(f"a mask has two dimensions, not {mask.ndim}")
    height, width = mask.shape
    return int(height), int(width)


def _check_size(height: int, width: int) -> None:
    if height < 0 or width < 0 or height * width > MAX_MASK_PIXELS:
        raise ValueError(f"a mask of {height}x{width} is outside 0..{MAX_MASK_PIXELS} pixels")


def _runs(rle: Rle) -> NDArray[np.int64]:
    """The run lengths, checked to cover the mask exactly."""
    _check_size(rle.height, rle.width)
    digits = np.frombuffer(rle.counts, np.uint8).astype(np.int64) - 48
    if digits.size == 0:
        if rle.height * rle.width:
            raise ValueError("the run lengths are empty")
        return np.zeros(0, np.int64)
    if digits.min() < 0 or digits.max() > 63:
        raise ValueError("the run lengths hold bytes outside the alphabet")
    if digits[-1] & 0x20:
        raise ValueError("the run lengths end within a number")
    ends = np.flatnonzero((digits & 0x20) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_DIGITS:
        raise ValueError("the run lengths hold a number that is too long")
    place = np.arange(digits.size) - np.repeat(starts, lengths)
    runs = np.add.reduceat((digits & 0x1F) << (5 * place), starts)
    # The highest digit carries the sign of the whole number.
    runs -= np.where(digits[ends] & 0x10, np.int64(1) << (5 * lengths), 0)
    # From the fourth on each is a difference to the one two before it: two interleaved running sums.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    if runs.min() < 0 or runs.sum() != rle.height * rle.width:
        raise ValueError(f"the run lengths do not cover {rle.height}x{rle.width} pixels")
    return runs


def _written(masks: Sequence[NDArray[np.int64]]) -> list[bytes]:
    """The run lengths of each mask in COCO's digits; `_runs` read backwards.

    All at once: a mask alone has so few runs that the time goes into calling numpy some fifty times.
    """
    if not masks:
        return []
    runs = np.concatenate(masks)
    ends = np.cumsum([len(one) for one in masks])
    numbers = runs.copy()
    numbers[2:] -= runs[:-2]
    for end, one in zip(ends, masks, strict=True):
        first = end - len(one)
        numbers[first : min(first + 3, end)] = one[:3]  # differences only from the fourth on
    digits = np.zeros((len(numbers), _MAX_DIGITS), np.uint8)
    used = np.zeros(digits.shape, np.bool_)
    unfinished = np.ones(len(numbers), np.bool_)
    for place in range(_MAX_DIGITS):
        low = numbers & 0x1F
        numbers >>= 5
        used[:, place] = unfinished
        # Done when what is left is nothing but the sign that the highest bit of this digit shows.
        unfinished = unfinished & (numbers != np.where(low & 0x10, -1, 0))
        digits[:, place] = low + np.where(unfinished, 0x20, 0) + 48
        if not unfinished.any():
            break
    text = digits[used].tobytes()
    stops = np.cumsum(used.sum(axis=1))[ends - 1].tolist()
    return [text[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]

"""Masks survive the wire, agree with pycocotools, and damaged ones are refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco

from serving.masks import (
    MAX_MASK_PIXELS,
    Rle,
    box_from_mask,
    decode_png,
    decode_rle,
    encode_png,
    encode_rle,
    encode_rle_window,
    encode_rle_windows,
    rle_area,
)

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))


@given(MASKS)
@example(np.zeros((3, 5), np.bool_))
@example(np.ones((3, 5), np.bool_))
@example(np.zeros((0, 5), np.bool_))
def test_run_lengths_give_the_mask_back(mask: np.ndarray) -> None:
    rle = encode_rle(mask)
    assert (rle.height, rle.width) == mask.shape
    decoded = decode_rle(rle)
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, mask)
    assert rle_area(rle) == mask.sum()


@given(MASKS)
@example(np.ones((3, 5), np.bool_))
def test_both_ways_agree_with_pycocotools(mask: np.ndarray) -> None:
    rle = encode_rle(mask)
    assert rle.counts == coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    theirs = coco.decode({"size": [rle.height, rle.width], "counts": rle.counts})
    np.testing.assert_array_equal(decode_rle(rle), theirs.astype(bool))


@pytest.mark.parametrize("shape", [(1080, 1920), (4000, 3), (3, 4000)])
def test_long_runs(shape: tuple[int, int]) -> None:
    """Runs beyond a million take several digits, and their differences have both signs."""
    mask = np.zeros(shape, np.bool_)
    mask[:, 1:2] = True
    mask[-1, -1] = True
    assert encode_rle(mask).counts == coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    np.testing.assert_array_equal(decode_rle(encode_rle(mask)), mask)


@given(MASKS, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_a_window_is_encoded_as_its_whole_mask(
    window: np.ndarray, above: int, below: int, before: int, after: int
) -> None:
    whole = np.pad(window, ((above, below), (before, after)))
    height, width = whole.shape
    rle = encode_rle_window(window, top=above, left=before, height=height, width=width)
    assert rle == encode_rle(whole)
    np.testing.assert_array_equal(decode_rle(rle), whole)


@given(st.lists(MASKS, max_size=5))
@example([np.zeros((0, 3), np.bool_), np.zeros((2, 2), np.bool_), np.ones((1, 1), np.bool_)])
def test_all_masks_of_a_picture_are_encoded_as_each_alone(windows: list[np.ndarray]) -> None:
    placed = [(window, 40 - window.shape[0], 3) for window in windows]
    together = encode_rle_windows(placed, height=41, width=50)
    assert together == [
        encode_rle_window(window, top=top, left=left, height=41, width=50) for window, top, left in placed
    ]


@pytest.mark.parametrize(("top", "left"), [(-1, 0), (0, -1), (3, 0), (0, 3)])
def test_a_window_outside_its_mask_is_refused(top: int, left: int) -> None:
    with pytest.raises(ValueError, match="leaves"):
        encode_rle_window(np.ones((2, 2), np.bool_), top=top, left=left, height=4, width=4)


@given(MASKS)
def test_png_gives_the_mask_back(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_png(encode_png(mask)), mask)


def test_png_is_grey_of_8_bits_and_255_inside() -> None:
    picture = Image.open(io.BytesIO(encode_png(np.array([[True, False]]))))
    assert picture.mode == "L"
    assert list(picture.tobytes()) == [255, 0]


@given(MASKS)
def test_the_box_is_the_tightest(mask: np.ndarray) -> None:
    box = box_from_mask(mask)
    if not mask.any():
        assert box is None
        return
    assert box is not None
    x0, y0, x1, y1 = box
    inside = mask[y0:y1, x0:x1]
    assert inside.sum() == mask.sum()
    assert inside[0].any()
    assert inside[-1].any()
    assert inside[:, 0].any()
    assert inside[:, -1].any()


@pytest.mark.parametrize(
    ("rle", "why"),
    [
        (Rle(2, 2, b""), "empty"),
        (Rle(2, 2, b"\xff"), "alphabet"),
        (Rle(2, 2, b"4\x00"), "alphabet"),
        (Rle(2, 2, b"o"), "within a number"),
        (Rle(2, 2, b"5"), "cover"),
        (Rle(2, 2, b"3"), "cover"),
        (Rle(2, 2, b"@"), "cover"),
        (Rle(2, 2, b"o" * 20 + b"1"), "too long"),
        (Rle(2**20, 2**20, b"4"), "outside"),
        (Rle(-2, -2, b"4"), "outside"),
    ],
)
def test_damaged_run_lengths_are_refused(rle: Rle, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode_rle(rle)
    with pytest.raises(ValueError, match=why):
        rle_area(rle)


@given(st.integers(0, 50), st.integers(0, 50), st.binary(max_size=30))
def test_any_run_lengths_decode_or_are_refused(height: int, width: int, counts: bytes) -> None:
    rle = Rle(height, width, counts)
    try:
        mask = decode_rle(rle)
    except ValueError:
        return
    assert mask.shape == (height, width)
    assert rle_area(rle) == mask.sum()


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        encode_png(np.ones((9, 9), np.bool_))[:40],
        _png(Image.new("RGB", (3, 3))),
        _png(Image.new("L", (MAX_MASK_PIXELS // 5000 + 1, 5000))),
    ],
    ids=["empty", "not-png", "truncated", "coloured", "too-large"],
)
def test_damaged_pngs_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_png(data)


@given(st.binary(max_size=60), st.integers(0, 90))
def test_any_png_bytes_decode_or_are_refused(data: bytes, at: int) -> None:
    whole = encode_png(np.eye(9, dtype=np.bool_))
    try:
        mask = decode_png(whole[:at] + data + whole[at + len(data) :])
    except ValueError:
        return
    assert mask.dtype == np.bool_


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)])
def test_only_two_dimensions(shape: tuple[int, ...]) -> None:
    mask = np.zeros(shape, np.bool_)
    with pytest.raises(ValueError):
        encode_rle(mask)
    with pytest.raises(ValueError):
        encode_png(mask)
    with pytest.raises(ValueError):
        encode_png(np.zeros((0, 4), np.bool_))

"""Recipes followed in torch against what each expert's own preparation makes of the same picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.detection.owlv2 import pixels as owlv2
from services.ocr.detection_input import detector_input, input_recipe, plan_frame
from services.panoptic.eomt import pixels as eomt
from services.panoptic.mask2former import pixels as mask2former
from services.scene_graph.psgtr import pixels as psgtr
from serving.preprocess import Recipe, SquareRecipe
from serving.preprocess.tensors import SQUARE_TOLERANCE_LEVELS, TOLERANCE_LEVELS, prepare, turned
from serving.yolo import letterbox, letterbox_recipe

Picture = NDArray[np.uint8]
Expected = tuple[Recipe, NDArray[np.float32]]


def picture(height: int, width: int, seed: int) -> Picture:
    """Smooth in places, noise in others."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    noise = rng.integers(0, 256, (height, width, 3))
    return np.where(rng.random((height, width, 1)) < 0.5, ramp, noise).astype(np.uint8)


def of_mask2former(image: Picture) -> Expected:
    return mask2former.input_recipe((64, 96)), mask2former.network_input(image, (64, 96))


def of_eomt(image: Picture) -> Expected:
    height, width, _ = image.shape
    return eomt.input_recipe(height, width, 64), eomt.network_input(image, 64)


def of_yolo(image: Picture) -> Expected:
    made, fit = letterbox(image, size=96)
    return letterbox_recipe(fit), made


def of_psgtr(image: Picture) -> Expected:
    made, _, fit = psgtr.network_input(image, longer=96, shorter=64)
    return psgtr.input_recipe(fit), made


def of_ocr(image: Picture) -> Expected:
    frame = plan_frame(*image.shape[:2], min_side=64, max_side=128)
    return input_recipe(frame), detector_input(image, frame)[0]


@pytest.mark.parametrize("expert", [of_mask2former, of_eomt, of_yolo, of_psgtr, of_ocr])
@given(st.integers(16, 200), st.integers(16, 120), st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_the_device_makes_what_the_expert_makes(expert: object, height: int, width: int, seed: int) -> None:
    assert callable(expert)
    image = picture(height, width, seed)
    recipe, expected = expert(image)
    made = prepare(torch.from_numpy(image), recipe)
    assert made.is_contiguous()
    assert made.dtype == torch.float32
    assert tuple(made.shape) == expected.shape
    levels = np.abs(made.numpy() - expected) * np.array(recipe.deviation, np.float32)[:, None, None]
    assert levels.max() <= TOLERANCE_LEVELS + 1e-3
    assert levels.mean() < 0.5


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([32, 60, 96]), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_device_makes_squares_as_owlv2_takes_them(height: int, width: int, side: int, seed: int) -> None:
    """Shrinking, enlarging and neither, with padding below, at the right and nowhere."""
    image = picture(height, width, seed)
    recipe = owlv2.input_recipe(side)
    expected = owlv2.network_input(image, side)
    made = prepare(torch.from_numpy(image), recipe)
    assert made.is_contiguous()
    assert tuple(made.shape) == expected.shape
    levels = np.abs(made.numpy() - expected) * np.array(recipe.deviation, np.float32)[:, None, None]
    assert levels.max() <= SQUARE_TOLERANCE_LEVELS


def test_a_picture_of_the_right_size_is_only_normalised() -> None:
    image = picture(8, 12, 0)
    made = prepare(torch.from_numpy(image), Recipe("bilinear", 8, 12, 8, 12, (0,) * 3, (1,) * 3))
    np.testing.assert_array_equal(made.numpy(), image.transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone_as_on_the_host(orientation: int) -> None:
    import io

    from PIL import Image

    from serving.image import decode_image

    stored, file, exif = picture(8, 12, 1), io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(file, "PNG", exif=exif)
    made = turned(torch.from_numpy(stored), orientation)
    np.testing.assert_array_equal(made.numpy(), decode_image(file.getvalue()))


def test_what_is_no_picture_and_what_does_not_fit_is_refused() -> None:
    recipe = Recipe("bilinear", 8, 12, 8, 12, (0,) * 3, (1,) * 3)
    for wrong in (torch.zeros(8, 12, 4, dtype=torch.uint8), torch.zeros(8, 12, 3), torch.zeros(8, 12)):
        with pytest.raises(ValueError, match="uint8"):
            prepare(wrong, recipe)
    for height, top, deviation in ((7, 0, 1.0), (8, 1, 1.0), (8, -1, 1.0), (8, 0, 0.0)):
        with pytest.raises(ValueError, match="does not lie within"):
            Recipe("bilinear", 8, 12, height, 12, (0,) * 3, (deviation,) * 3, top=top)
    for side, deviation in ((0, 1.0), (8, 0.0)):
        with pytest.raises(ValueError, match="square"):
            SquareRecipe(side, (0,) * 3, (deviation,) * 3, 0)

"""The network's input: sizes, padding, colours."""

from __future__ import annotations

import numpy as np
import pytest

from services.scene_graph.psgtr.pixels import network_input, squash


def plain(height: int, width: int, colour: tuple[int, int, int] = (255, 128, 0)) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


@pytest.mark.parametrize(
    ("picture", "scaled", "padded"),
    [
        ((480, 640), (800, 1067), (800, 1088)),  # mmdetection's own example of (1333, 800)
        ((490, 490), (800, 800), (800, 800)),
        ((300, 1000), (400, 1333), (416, 1344)),
        ((1, 1), (800, 800), (800, 800)),
        ((1, 4000), (1, 1333), (32, 1344)),
    ],
)
def test_sides_fit_1333_by_800_and_are_padded_to_32(
    picture: tuple[int, int], scaled: tuple[int, int], padded: tuple[int, int]
) -> None:
    pixels, mask, fit = network_input(plain(*picture))
    assert (fit.height, fit.width) == picture
    assert (fit.scaled_height, fit.scaled_width) == scaled
    assert (fit.input_height, fit.input_width) == padded == mask.shape == pixels.shape[1:]
    assert pixels.dtype == mask.dtype == np.float32
    assert mask.sum() == scaled[0] * scaled[1]
    assert not pixels[:, mask == 0].any()


def test_colours_are_normalised_as_imagenet_is() -> None:
    pixels, _, _ = network_input(plain(64, 64), longer=64, shorter=64)
    expected = [(255 - 123.675) / 58.395, (128 - 116.28) / 57.12, -103.53 / 57.375]
    np.testing.assert_allclose(pixels[:, 10, 10], expected, rtol=1e-5)


def test_the_published_way_squashes_and_swaps_red_and_blue() -> None:
    pixels, _, fit = network_input(plain(100, 300), longer=64, shorter=64, as_published=True)
    assert (fit.height, fit.width, fit.scaled_height, fit.scaled_width) == (100, 300, 64, 64)
    expected = [-123.675 / 58.395, (128 - 116.28) / 57.12, (255 - 103.53) / 57.375]
    np.testing.assert_allclose(pixels[:, 10, 10], expected, rtol=1e-5)


def test_squashing_is_torchvisions_without_antialiasing() -> None:
    torch = pytest.importorskip("torch")
    picture = np.random.default_rng(0).integers(0, 256, (211, 700, 3), dtype=np.uint8)
    stretched = torch.nn.functional.interpolate(
        torch.from_numpy(picture).permute(2, 0, 1)[None].float(), (490, 490), mode="bilinear"
    )
    apart = np.abs(squash(picture).astype(int) - stretched[0].permute(1, 2, 0).round().numpy().astype(int))
    assert apart.max() <= 1

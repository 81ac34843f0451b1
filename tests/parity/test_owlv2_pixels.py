"""What OWLv2 sees is what transformers' image processor would show it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llm_server.prompts.pixels import squash_demo
from services.detection.owlv2.pixels import GREY, network_input, reference_input, squash

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711])


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(70, 104), (64, 64), (30, 20), (300, 180), (140, 420), (5, 100), (100, 5)])
@pytest.mark.parametrize("size", [64, 96])
@pytest.mark.parametrize("padding", [0.0, GREY])
def test_padded_smoothed_and_resized_as_the_processor_does(
    shape: tuple[int, int], size: int, padding: float
) -> None:
    """Enlarged, kept, shrunk; with the padding of transformers 5 (black) and of the authors (grey)."""
    from transformers.models.owlv2.image_processing_owlv2 import Owlv2ImageProcessor

    class Padded(Owlv2ImageProcessor):
        def _pad_images(self, images: Any, constant_value: float = 0.0) -> Any:
            return super()._pad_images(images, padding)

    image = picture(*shape)
    planes = torch.from_numpy(image.transpose(2, 0, 1).copy())
    processor = Padded(size={"height": size, "width": size})
    (expected,) = processor([planes], return_tensors="np", input_data_format="channels_first")["pixel_values"]
    np.testing.assert_allclose(network_input(image, size, padding=padding), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("shape", [(427, 640), (490, 490), (97, 33), (900, 700), (30, 40)])
def test_squashed_as_the_language_model_sees_it(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    np.testing.assert_array_equal(squash(image).transpose(2, 0, 1), squash_demo(image))


def test_the_reference_enlarges_the_squashed_picture_with_mirrored_borders() -> None:
    """scipy's `zoom(order=1, mode="mirror", grid_mode=True)`, written out with a plain interpolation."""
    image, size = picture(120, 90), 960
    mirrored = np.pad(squash(image).astype(np.float64) / 255, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    middles = (np.arange(size) + 0.5) * 490 / size - 0.5 + 1
    below = np.floor(middles).astype(int)
    share = (middles - below)[:, None]
    rows = mirrored[below] * (1 - share[..., None]) + mirrored[below + 1] * share[..., None]
    expected = rows[:, below] * (1 - share) + rows[:, below + 1] * share
    np.testing.assert_allclose(
        reference_input(image, size), ((expected - MEAN) / DEVIATION).transpose(2, 0, 1), atol=1e-4, rtol=0
    )


def test_a_very_long_picture_is_never_padded_to_its_square() -> None:
    """16,384 x 100 pixels would be 3.2 GB as a padded float square."""
    import tracemalloc

    tracemalloc.start()
    seen = network_input(np.full((16384, 100, 3), 255, np.uint8), 96)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6
    white, grey = (1 - MEAN) / DEVIATION, (GREY - MEAN) / DEVIATION
    np.testing.assert_allclose(seen[:, 48, -1], grey, atol=1e-5)
    assert (seen[:, 48, 0] > grey).all()
    assert (seen[:, 48, 0] < white + 1e-5).all()

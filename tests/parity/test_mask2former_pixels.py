"""What the network sees is what transformers' image processor would show it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from llm_server.prompts.pixels import squash_demo
from services.panoptic.mask2former.pixels import network_input, squash

pytest.importorskip("transformers")


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(427, 640), (490, 490), (97, 33), (900, 700)])
def test_resized_and_normalised_as_the_processor_does(shape: tuple[int, int]) -> None:
    from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

    processor = Mask2FormerImageProcessorPil(size={"height": 384, "width": 384})
    image = picture(*shape)
    expected = processor([image], return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(network_input(image, (384, 384)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(427, 640), (490, 490), (97, 33), (900, 700), (30, 40)])
def test_squashed_as_the_language_model_sees_it(shape: tuple[int, int]) -> None:
    """Both halves of the published systems are shown the same 490 x 490 pixels."""
    image = picture(*shape)
    squashed = squash(image)
    np.testing.assert_array_equal(squashed.transpose(2, 0, 1), squash_demo(image))
    np.testing.assert_array_equal(
        network_input(image, (384, 384), squash_first=True), network_input(squashed, (384, 384))
    )

"""Squashing, normalising and stretching against PyTorch and torchvision themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, Resize

from llm_server.models.clip_positions import stretch_positions
from llm_server.prompts.pixels import (
    image_tokens,
    normalisation_tables,
    normalise,
    squash_demo,
    squash_eval,
)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch's kernel depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("size", [(120, 90), (333, 517), (490, 490), (1, 1), (700, 31), (97, 1024)])
def test_demo_squash_is_that_of_torchvision(size: tuple[int, int]) -> None:
    image = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8)
    resize = Resize((490, 490), interpolation=InterpolationMode.BILINEAR, antialias=False)
    theirs = resize(torch.from_numpy(image).permute(2, 0, 1)).numpy()
    assert np.array_equal(squash_demo(image), theirs)


def test_eval_squash_smooths_and_demo_squash_does_not() -> None:
    stripes = np.zeros((200, 200, 3), np.uint8)
    stripes[:, ::2] = 255
    assert squash_eval(stripes, 50).shape == squash_demo(stripes, 50).shape == (3, 50, 50)
    assert np.ptp(squash_eval(stripes, 50)[:, :, 5:45].astype(int)) <= 4
    assert squash_demo(np.full((3, 5, 3), 7, np.uint8), 4).tolist() == np.full((3, 4, 4), 7).tolist()


def test_normalising_keeps_the_scale_of_bytes() -> None:
    mean, std = normalisation_tables(np.float32)
    values = np.stack([np.full((2, 2), level, np.float32) for level in mean + std])
    assert np.allclose(normalise(values), 1.0, atol=1e-6)
    assert normalise(values, np.float16).dtype == np.float16


def test_positions_of_the_same_grid_stay_and_the_class_row_always_does() -> None:
    table = np.random.default_rng(0).normal(size=(1 + 9, 4)).astype(np.float32)
    same = stretch_positions(table, 3)
    assert np.array_equal(same[1:], table[1:].astype(np.float16).astype(np.float32))
    assert np.array_equal(stretch_positions(table, 5)[0], table[0])
    assert stretch_positions(table, 5).shape == (26, 4)


def test_image_tokens_of_the_published_size() -> None:
    assert image_tokens() == 1225
    assert image_tokens(70) == 25

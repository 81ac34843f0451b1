"""The PASCAL palette and the picture made with it."""

from __future__ import annotations

import numpy as np
import pytest

from llm_server.prompts.colour_map import ENTRIES, PaletteRangeError, as_model_input, colour_map, palette


def test_palette_is_the_one_of_pascal() -> None:
    expected = {
        0: [0, 0, 0],
        1: [128, 0, 0],
        7: [128, 128, 128],
        8: [64, 0, 0],
        64: [32, 0, 0],
        133: [128, 32, 128],
    }
    assert {index: palette()[index].tolist() for index in expected} == expected
    assert len(np.unique(palette(), axis=0)) == ENTRIES
    assert np.array_equal(palette(21), palette()[:21])


def test_no_segment_is_black_and_ids_choose_the_colour() -> None:
    colours = colour_map(np.array([[-1, 0], [1, 133]]))
    assert colours[0].tolist() == [[0.0] * 3] * 2
    assert colours[1, 0].tolist() == [128 / 255, 0.0, 0.0]
    assert as_model_input(colours).shape == (1, 3, 2, 2)
    assert as_model_input(colours).dtype == np.float16


def test_an_id_beyond_the_palette_is_refused() -> None:
    with pytest.raises(PaletteRangeError, match="134"):
        colour_map(np.array([[134]]))

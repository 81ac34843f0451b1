"""Where the image stands: one placeholder becomes many positions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_server.prompts.image_span import ImagePlaceholderError, image_span

text_ids = st.lists(st.integers(0, 99), max_size=20)


@settings(max_examples=60, deadline=None)
@given(text_ids, text_ids, st.integers(1, 50))
def test_the_masks_split_the_prompt(before: list[int], after: list[int], tokens: int) -> None:
    span = image_span([*before, 100, *after], image_id=100, image_tokens=tokens)
    image, language = span.image_mask(), span.language_mask()
    assert image.tolist() == [0] * len(before) + [1] * tokens + [0] * len(after)
    assert (image + language == 1).all()
    assert len(image) == span.length


@pytest.mark.parametrize("ids", [[], [1, 2], [100, 1, 100]])
def test_none_or_two_placeholders_are_refused(ids: list[int]) -> None:
    with pytest.raises(ImagePlaceholderError, match="one image placeholder"):
        image_span(ids, image_id=100, image_tokens=4)

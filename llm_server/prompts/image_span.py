"""Where the image stands in a prompt once its one placeholder has become image tokens.

The image mask (1 at image positions) and the language mask (0 there) of both published systems follow from the span.
Pure: numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class ImagePlaceholderError(ValueError):
    """A prompt does not hold exactly one image placeholder."""


@dataclass(frozen=True)
class ImageSpan:
    """Positions [start, end) of the image in a prompt of `length` positions."""

    start: int
    end: int
    length: int

    def image_mask(self) -> NDArray[np.uint8]:
        """(length,) uint8, 1 at image positions."""
        mask = np.zeros(self.length, np.uint8)
        mask[self.start : self.end] = 1
        return mask

    def language_mask(self) -> NDArray[np.uint8]:
        """(length,) uint8, 1 at text positions."""
        mask: NDArray[np.uint8] = 1 - self.image_mask()
        return mask


def image_span(ids: Sequence[int], *, image_id: int, image_tokens: int) -> ImageSpan:
    """Span of the image when the placeholder `image_id` in `ids` gives way to `image_tokens` positions.

    Raises:
        ImagePlaceholderError: `ids` holds none, or more than one (text from outside was not neutralised).
    """
    places = [place for place, token in enumerate(ids) if token == image_id]
    if len(places) != 1:
        raise ImagePlaceholderError(f"a prompt needs one image placeholder, this one has {len(places)}")
    return ImageSpan(places[0], places[0] + image_tokens, len(ids) - 1 + image_tokens)

"""A real JPEG to send, and as many different ones as a test wants."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def jpeg() -> Callable[[int], bytes]:
    """`jpeg(n)`: the n-th of as many different small JPEG files as wanted."""

    def make(number: int) -> bytes:
        picture = Image.new("RGB", (64, 48), (number % 256, number // 256 % 256, 90))
        file = io.BytesIO()
        picture.save(file, "JPEG")
        # What follows the end of a JPEG is nobody's business, and makes each one different for sure.
        return file.getvalue() + number.to_bytes(4, "big")

    return make

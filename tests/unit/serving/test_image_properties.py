"""Whatever the bytes, decoding gives an RGB array or an error of the contract."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.errors import PolysightError
from serving.image import ImageLimits, decode_image, read_header

# Small limits: a mutation may well declare a large picture, and decoding it would only cost time.
LIMITS = ImageLimits(max_pixels=1_000_000)


def _files() -> list[bytes]:
    pixels = np.random.default_rng(7).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    rgb = Image.fromarray(pixels)
    grey16 = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    variants: list[tuple[Image.Image, str, dict[str, object]]] = [
        (rgb, "JPEG", {}),
        (rgb, "JPEG", {"progressive": True}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "PNG", {}),
        (rgb.convert("P"), "PNG", {"transparency": 3}),
        (grey16, "PNG", {}),
        (rgb, "PNG", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        (rgb, "WEBP", {}),
        (rgb.convert("RGBA"), "WEBP", {"lossless": True}),
        (rgb, "WEBP", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        (rgb, "GIF", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        (rgb, "BMP", {}),
        (rgb.convert("P"), "BMP", {}),
        (rgb, "TIFF", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}),
        (rgb, "TIFF", {"compression": "jpeg"}),
        (rgb.convert("F"), "TIFF", {"compression": "tiff_adobe_deflate"}),
        (rgb.convert("1"), "TIFF", {"compression": "group4"}),
    ]
    files = []
    for picture, kind, options in variants:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return files


FILES = _files()
SIGNATURES = sorted({data[:12] for data in FILES})
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def decodes_or_refuses(data: bytes) -> None:
    """No exception but ours, and the header agrees with the whole on what is refused at its stage."""
    try:
        header = read_header(data, LIMITS)
    except PolysightError as refused:
        with pytest.raises(type(refused)):
            decode_image(data, LIMITS)
        return
    assert header.width * header.height <= LIMITS.max_pixels
    try:
        rgb = decode_image(data, LIMITS)
    except PolysightError:
        return
    assert rgb.dtype == np.uint8
    assert rgb.shape[2:] == (3,)
    assert rgb.size <= LIMITS.max_pixels * 3


@pytest.mark.filterwarnings("ignore")
@QUICK
@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    decodes_or_refuses(data)


@pytest.mark.filterwarnings("ignore")
@QUICK
@given(st.sampled_from(SIGNATURES), st.binary(max_size=300))
def test_random_bytes_behind_a_true_signature(signature: bytes, data: bytes) -> None:
    decodes_or_refuses(signature + data)


@pytest.mark.filterwarnings("ignore")
@QUICK
@given(st.sampled_from(FILES), st.data())
def test_truncations(file: bytes, data: st.DataObject) -> None:
    decodes_or_refuses(file[: data.draw(st.integers(0, len(file)))])


@pytest.mark.filterwarnings("ignore")
@settings(QUICK, max_examples=400)
@given(st.sampled_from(FILES), st.data())
def test_mutations(file: bytes, data: st.DataObject) -> None:
    """A few bytes changed, most of them where the headers are."""
    changed = bytearray(file)
    for _ in range(data.draw(st.integers(1, 6))):
        near = data.draw(st.booleans())
        at = data.draw(st.integers(0, min(80, len(file) - 1) if near else len(file) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    decodes_or_refuses(bytes(changed))


@pytest.mark.filterwarnings("ignore")
@QUICK
@given(st.sampled_from(FILES), st.sampled_from(FILES), st.data())
def test_splices(head: bytes, tail: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(head)))
    decodes_or_refuses(head[:cut] + tail[data.draw(st.integers(0, len(tail))) :])


@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from(["PNG", "BMP", "TIFF"]), st.integers(0, 2**32 - 1)
)
@QUICK
def test_lossless_formats_give_the_pixels_back(height: int, width: int, kind: str, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    np.testing.assert_array_equal(decode_image(buffer.getvalue()), pixels)

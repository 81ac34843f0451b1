"""A table of real image files, made here, and the one outcome each must have."""

from __future__ import annotations

import io
import struct
import time
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from serving.errors import (
    ImageCorruptError,
    ImageEmptyError,
    ImageTooLargeError,
    ImageUnsupportedFormatError,
    PolysightError,
)
from serving.image import ImageLimits, decode_image, read_header

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
WIDTH, HEIGHT = 24, 16


def save(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def quadrants() -> Image.Image:
    """Upper left red, upper right green, lower left blue, lower right white: every orientation differs."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:8, :12], pixels[:8, 12:], pixels[8:, :12], pixels[8:, 12:] = RED, GREEN, BLUE, WHITE
    return Image.fromarray(pixels)


def translucent(mode: str) -> Image.Image:
    """Left half opaque and darkest, right half fully transparent over the same colour."""
    layer = Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 255))
    layer.paste((0, 0, 0, 0), (WIDTH // 2, 0, WIDTH, HEIGHT))
    return layer.convert(mode)


def ramp16() -> np.ndarray:
    return np.tile(np.linspace(0, 65535, WIDTH).astype(np.uint16), (HEIGHT, 1))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, pixels: bytes, *extra: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body + png_chunk(b"IEND", b"")


def rgb16_png() -> bytes:
    rows = np.zeros((HEIGHT, WIDTH, 3), ">u2")
    rows[..., 0] = ramp16()
    return png(WIDTH, HEIGHT, 16, 2, b"".join(b"\0" + row.tobytes() for row in rows))


def grey16_png_with_transparent_black() -> bytes:
    pixels = b"".join(b"\0" + row.astype(">u2").tobytes() for row in ramp16())
    return png(WIDTH, HEIGHT, 16, 0, pixels, png_chunk(b"tRNS", b"\0\0"))


def palette(transparent: bool) -> bytes:
    picture = quadrants().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    red = picture.getpixel((0, 0))
    return save(picture, "PNG", **({"transparency": red} if transparent else {}))


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in (RED, GREEN, BLUE)]
    options: dict[str, object] = {"save_all": True, "append_images": frames[1:], "duration": 50}
    return save(frames[0], kind, **options | ({"lossless": True} if kind == "WEBP" else {}))


def pages() -> bytes:
    first, second = Image.new("RGB", (WIDTH, HEIGHT), RED), Image.new("RGB", (8, 8), BLUE)
    return save(first, "TIFF", save_all=True, append_images=[second])


def inverted_cmyk_jpeg() -> bytes:
    """As Adobe's programs write it, and Pillow too: full ink is 0. Pure cyan ink."""
    return save(Image.new("CMYK", (WIDTH, HEIGHT), (255, 0, 0, 0)), "JPEG", quality=95)


def turned(kind: str, orientation: int) -> bytes:
    """Stored so that undoing `orientation` gives `quadrants()` back."""
    store = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    picture = quadrants() if store is None else quadrants().transpose(store)
    if kind == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[0x0112] = orientation
        return save(picture, kind, tiffinfo=tags)
    exif = Image.Exif()
    exif[0x0112] = orientation
    special: dict[str, dict[str, object]] = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 95, "subsampling": 0},
    }
    return save(picture, kind, exif=exif.tobytes(), **special.get(kind, {}))


def jpeg(**options: object) -> bytes:
    return save(quadrants(), "JPEG", quality=95, subsampling=0, **options)


def damaged_exif_jpeg() -> bytes:
    return save(quadrants(), "JPEG", quality=95, subsampling=0, exif=b"Exif\0\0II*\0\xff\xff\xff\xff\x01")


def expected_quadrants(rgb: np.ndarray) -> None:
    assert rgb.shape == (HEIGHT, WIDTH, 3)
    corners = [rgb[3, 3], rgb[3, -4], rgb[-4, 3], rgb[-4, -4]]
    np.testing.assert_allclose(corners, [RED, GREEN, BLUE, WHITE], atol=6)


def one_colour(colour: tuple[int, int, int], tolerance: int = 2) -> Callable[[np.ndarray], None]:
    def check(rgb: np.ndarray) -> None:
        assert rgb.shape == (HEIGHT, WIDTH, 3)
        np.testing.assert_allclose(rgb, np.broadcast_to(colour, rgb.shape), atol=tolerance)

    return check


def halves(left: int, right: int) -> Callable[[np.ndarray], None]:
    def check(rgb: np.ndarray) -> None:
        np.testing.assert_allclose(rgb[:, : WIDTH // 2 - 2], left, atol=2)
        np.testing.assert_allclose(rgb[:, WIDTH // 2 + 2 :], right, atol=2)

    return check


def ramp(channels: tuple[int, ...] = (0, 1, 2)) -> Callable[[np.ndarray], None]:
    """A ramp over the whole range: clipping would flatten it, a wrong scale would stop it short."""

    def check(rgb: np.ndarray) -> None:
        want = np.linspace(0, 255, WIDTH)
        for channel in range(3):
            wanted = want if channel in channels else np.zeros(WIDTH)
            np.testing.assert_allclose(rgb[0, :, channel], wanted, atol=1)

    return check


def ramp_with_white_start(rgb: np.ndarray) -> None:
    np.testing.assert_array_equal(rgb[:, 0], 255)
    np.testing.assert_allclose(rgb[0, 1:, 0], np.linspace(0, 255, WIDTH)[1:], atol=1)


GREY = Image.new("L", (WIDTH, HEIGHT), 90)
FLOATS = np.tile(np.linspace(0, 1, WIDTH, dtype=np.float32), (HEIGHT, 1))
NANS = np.where(np.arange(WIDTH) == 5, np.float32("nan"), FLOATS)
CHECKER = Image.fromarray(np.tile(np.arange(WIDTH) >= WIDTH // 2, (HEIGHT, 1)))

GOOD: dict[str, tuple[bytes, Callable[[np.ndarray], None]]] = {
    "jpeg": (jpeg(), expected_quadrants),
    "jpeg-progressive": (jpeg(progressive=True), expected_quadrants),
    "jpeg-grey": (save(GREY, "JPEG"), one_colour((90, 90, 90))),
    "jpeg-cmyk-adobe-inverted": (inverted_cmyk_jpeg(), one_colour((0, 255, 255))),
    "jpeg-damaged-exif": (damaged_exif_jpeg(), expected_quadrants),
    "jpeg-trailing-bytes": (jpeg() + b"and then some", expected_quadrants),
    "jpeg-mpo-two-pictures": (
        save(quadrants(), "MPO", save_all=True, append_images=[GREY.convert("RGB")], quality=95),
        lambda rgb: np.testing.assert_allclose(rgb[3, 3], RED, atol=6),
    ),
    "png": (save(quadrants(), "PNG"), expected_quadrants),
    "png-1-bit": (save(CHECKER, "PNG"), halves(0, 255)),
    "png-grey": (save(GREY, "PNG"), one_colour((90, 90, 90))),
    "png-palette": (palette(False), expected_quadrants),
    "png-palette-transparent": (
        palette(True),
        lambda rgb: np.testing.assert_array_equal(rgb[[3, 3], [3, -4]], [WHITE, GREEN]),
    ),
    "png-rgba": (save(translucent("RGBA"), "PNG"), halves(0, 255)),
    "png-grey-alpha": (save(translucent("LA"), "PNG"), halves(0, 255)),
    "png-16-bit-grey": (save(Image.fromarray(ramp16()), "PNG"), ramp()),
    "png-16-bit-grey-transparent": (grey16_png_with_transparent_black(), ramp_with_white_start),
    "png-16-bit-rgb": (rgb16_png(), ramp((0,))),
    "png-interlaced-free-text": (
        png(1, 1, 8, 2, b"\0\1\2\3", png_chunk(b"tEXt", b"Comment\0hello")),
        lambda rgb: np.testing.assert_array_equal(rgb, [[[1, 2, 3]]]),
    ),
    "apng": (animated("PNG"), one_colour(RED)),
    "gif": (save(quadrants(), "GIF"), expected_quadrants),
    "gif-animated": (animated("GIF"), one_colour(RED)),
    "gif-transparent": (save(translucent("RGBA"), "GIF"), halves(0, 255)),
    "webp": (save(quadrants(), "WEBP", lossless=True), expected_quadrants),
    "webp-lossy": (save(GREY.convert("RGB"), "WEBP"), one_colour((90, 90, 90), 4)),
    "webp-alpha": (save(translucent("RGBA"), "WEBP", lossless=True), halves(0, 255)),
    "webp-animated": (animated("WEBP"), one_colour(RED)),
    "bmp": (save(quadrants(), "BMP"), expected_quadrants),
    "bmp-1-bit": (save(CHECKER, "BMP"), halves(0, 255)),
    "tiff": (save(quadrants(), "TIFF"), expected_quadrants),
    "tiff-lzw": (save(quadrants(), "TIFF", compression="tiff_lzw"), expected_quadrants),
    "tiff-cmyk": (
        save(Image.new("CMYK", (WIDTH, HEIGHT), (255, 0, 0, 0)), "TIFF"),
        one_colour((0, 255, 255)),
    ),
    "tiff-16-bit-grey": (save(Image.fromarray(ramp16()), "TIFF"), ramp()),
    "tiff-32-bit-integers": (save(Image.fromarray(ramp16().astype(np.int32)), "TIFF"), ramp()),
    "tiff-float-0-1": (save(Image.fromarray(FLOATS), "TIFF"), ramp()),
    "tiff-float-0-255": (save(Image.fromarray(FLOATS * np.float32(255)), "TIFF"), ramp()),
    "tiff-float-signed": (save(Image.fromarray(FLOATS * np.float32(8) - np.float32(4)), "TIFF"), ramp()),
    "tiff-float-huge": (save(Image.fromarray(FLOATS * np.float32(3e38) * np.float32(1)), "TIFF"), ramp()),
    "tiff-float-nan": (
        save(Image.fromarray(NANS), "TIFF"),
        lambda rgb: np.testing.assert_array_equal(rgb[0, [5, -1], 0], [0, 255]),
    ),
    "tiff-float-all-nan": (save(Image.fromarray(FLOATS * np.float32("nan")), "TIFF"), one_colour(BLACK)),
    "tiff-two-pages": (pages(), one_colour(RED)),
}

PNG_BYTES, JPEG_BYTES, WEBP_BYTES = save(quadrants(), "PNG"), jpeg(), save(quadrants(), "WEBP", lossless=True)
BIG = 60_000
MEGABYTES = b"\0" * (80 * 2**20)


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def jpeg_declaring(side: int) -> bytes:
    at = JPEG_BYTES.index(b"\xff\xc0") + 5
    return patched(JPEG_BYTES, at, struct.pack(">HH", side, side))


def gif_frame_beyond_canvas() -> bytes:
    data = save(GREY, "GIF")
    at = data.index(b",\0\0\0\0") + 5
    return patched(data, at, struct.pack("<HH", BIG, BIG))


def tiff_with_giant_tiles() -> bytes:
    """A picture of 8x8 in one tile of 40000x40000, written by hand: Pillow's writer has no such thing."""
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1, 322: 40_000, 323: 40_000, 324: 200, 325: 64}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4 + 256)


def png_with_text(kind: bytes, prefix: bytes) -> bytes:
    return png(1, 1, 8, 2, b"\0\1\2\3", png_chunk(kind, prefix + zlib.compress(MEGABYTES)))


BAD: dict[str, tuple[bytes, type[PolysightError]]] = {
    "empty": (b"", ImageEmptyError),
    "text": (b"hello, this is no picture", ImageUnsupportedFormatError),
    "svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', ImageUnsupportedFormatError),
    "pdf": (save(quadrants(), "PDF"), ImageUnsupportedFormatError),
    "ico": (save(quadrants().resize((16, 16)), "ICO"), ImageUnsupportedFormatError),
    "ppm": (save(quadrants(), "PPM"), ImageUnsupportedFormatError),
    "eps": (save(quadrants(), "EPS"), ImageUnsupportedFormatError),
    "avif": (save(quadrants(), "AVIF"), ImageUnsupportedFormatError),
    "jpeg-2000": (save(quadrants(), "JPEG2000"), ImageUnsupportedFormatError),
    "jpeg-truncated": (JPEG_BYTES[: -len(JPEG_BYTES) // 4], ImageCorruptError),
    "jpeg-progressive-truncated": (jpeg(progressive=True)[:-60], ImageCorruptError),
    "jpeg-three-bytes": (b"\xff\xd8\xff", ImageCorruptError),
    "jpeg-no-pixels-declared": (jpeg_declaring(0), ImageCorruptError),
    "png-truncated": (PNG_BYTES[:-30], ImageCorruptError),
    "png-bad-checksum": (patched(PNG_BYTES, 29, b"\0\0\0\0"), ImageCorruptError),
    "png-signature-only": (PNG_BYTES[:8], ImageCorruptError),
    "webp-truncated": (WEBP_BYTES[: len(WEBP_BYTES) // 2], ImageCorruptError),
    "gif-truncated": (save(quadrants(), "GIF")[:40], ImageCorruptError),
    "bmp-truncated": (save(quadrants(), "BMP")[:-100], ImageCorruptError),
    "tiff-truncated": (save(quadrants(), "TIFF")[:-600], ImageCorruptError),
    "tiff-two-letters-short": (b"II*\0", ImageCorruptError),
    "text-like-a-bmp": (b"BMovie night", ImageCorruptError),
    "png-zTXt-bomb": (png_with_text(b"zTXt", b"k\0\0"), ImageCorruptError),
    "png-iTXt-bomb": (png_with_text(b"iTXt", b"k\0\1\0\0\0"), ImageCorruptError),
    "png-iCCP-bomb": (png_with_text(b"iCCP", b"k\0\0"), ImageCorruptError),
    "png-huge": (png(BIG, BIG, 8, 2, b""), ImageTooLargeError),
    "png-pixels-beyond-declared-limit": (png(10_000, 5_001, 8, 0, b""), ImageTooLargeError),
    "png-one-row-too-wide": (png(16_385, 1, 8, 0, bytes(16_386)), ImageTooLargeError),
    "jpeg-huge": (jpeg_declaring(BIG), ImageTooLargeError),
    "gif-huge": (patched(save(GREY, "GIF"), 6, struct.pack("<HH", BIG, BIG)), ImageTooLargeError),
    "gif-frame-beyond-canvas": (gif_frame_beyond_canvas(), ImageTooLargeError),
    "bmp-huge": (patched(save(GREY, "BMP"), 18, struct.pack("<ii", BIG, BIG)), ImageTooLargeError),
    "tiff-giant-tiles": (tiff_with_giant_tiles(), ImageTooLargeError),
    "webp-huge-canvas": (
        b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\xff" * 2,
        ImageTooLargeError,
    ),
    "too-many-bytes": (b"\xff\xd8\xff" + bytes(20 * 2**20), ImageTooLargeError),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_files_decode_to_what_a_viewer_shows(name: str) -> None:
    data, check = GOOD[name]
    rgb = decode_image(data)
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous
    check(rgb)
    header = read_header(data)
    assert (header.height, header.width) == rgb.shape[:2]


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_their_reason(name: str) -> None:
    data, error = BAD[name]
    with pytest.raises(error) as caught:
        decode_image(data)
    assert type(caught.value) is error
    assert caught.value.message


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone(kind: str, orientation: int) -> None:
    data = turned(kind, orientation)
    expected_quadrants(decode_image(data))
    header = read_header(data)
    stored = (WIDTH, HEIGHT) if orientation <= 4 else (HEIGHT, WIDTH)
    assert (header.width, header.height) == stored


@pytest.mark.parametrize("name", [name for name, (_, error) in BAD.items() if error is ImageTooLargeError])
def test_what_is_too_large_is_refused_by_the_header_alone(name: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ImageTooLargeError):
        read_header(BAD[name][0])
    assert time.perf_counter() - started < 2  # decoding would take minutes and gigabytes


def test_limits_are_the_callers() -> None:
    with pytest.raises(ImageTooLargeError) as caught:
        read_header(PNG_BYTES, ImageLimits(max_pixels=WIDTH * HEIGHT - 1))
    assert caught.value.metadata["width"] == str(WIDTH)
    assert read_header(PNG_BYTES, ImageLimits(max_pixels=WIDTH * HEIGHT)).format == "PNG"


def test_the_process_wide_limit_of_pillow_plays_no_part() -> None:
    """Ours can be wider, and nothing is warned about: Pillow's own would begin at 89 million pixels."""
    wide = ImageLimits(max_pixels=10**9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_header(png(15_000, 15_000, 8, 0, b""), wide).width == 15_000


def test_the_refusal_names_what_was_sent() -> None:
    with pytest.raises(ImageUnsupportedFormatError) as caught:
        decode_image(BAD["svg"][0])
    assert caught.value.metadata == {"detected": "SVG"}

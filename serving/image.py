"""Image bytes from strangers to an RGB array, or a typed error.

The file's own header is judged first: nothing that declares more than `ImageLimits` allows has a pixel
decoded or a canvas allocated. Formats are recognised by their first bytes and opened with that one Pillow
plugin, so the other forty are out of reach, and Pillow's process-wide pixel limit plays no part.

What becomes of the unusual:
- EXIF (or XMP, or TIFF) orientation is applied; the result is the image as a viewer shows it.
- Transparency is composited on white: what lies beneath fully transparent pixels was never meant to be seen.
- 16-bit samples are scaled by 1/257 (never clipped); 32-bit integers and floats by range, see `_scaled`.
- CMYK follows Adobe's polarity in JPEG. Embedded colour profiles are ignored.
- Of an animation, or a file of several pages, the first frame counts.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from serving.errors import (
    ImageCorruptError,
    ImageEmptyError,
    ImageTooLargeError,
    ImageUnsupportedFormatError,
    PolysightError,
)

Rgb = NDArray[np.uint8]

_ORIENTATION = 0x0112
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT = 256, 257, 322, 323


@dataclass(frozen=True)
class ImageLimits:
    """What is accepted: file size in bytes, declared pixels in all, declared pixels along one side."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000
    max_side: int = 16384


@dataclass(frozen=True)
class ImageHeader:
    """What the file declares: format ("JPEG") and size in pixels as stored, before any EXIF orientation."""

    format: str
    width: int
    height: int


@dataclass(frozen=True)
class _Format:
    name: str
    matches: Callable[[bytes], bool]
    open: Callable[[io.BytesIO], ImageFile.ImageFile]


_FORMATS = (
    _Format("JPEG", lambda d: d.startswith(b"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    _Format("PNG", lambda d: d.startswith(b"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    _Format("WebP", lambda d: d[:4] == b"RIFF" and d[8:12] == b"WEBP", WebPImagePlugin.WebPImageFile),
    _Format("GIF", lambda d: d.startswith((b"GIF87a", b"GIF89a")), GifImagePlugin.GifImageFile),
    _Format(
        "TIFF",
        lambda d: d.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
        TiffImagePlugin.TiffImageFile,
    ),
    _Format("BMP", lambda d: d.startswith(b"BM"), BmpImagePlugin.BmpImageFile),
)

_ACCEPTED = ", ".join(f.name for f in _FORMATS)

# Named in the refusal, because "not an image" would puzzle who sends one of these.
_KNOWN_REFUSED = (
    ("PDF", lambda d: d.startswith(b"%PDF")),
    ("SVG", lambda d: b"<svg" in d[:1024].lower()),
    ("HEIC or AVIF", lambda d: d[4:8] == b"ftyp"),
    ("JPEG 2000", lambda d: d.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"))),
    ("JPEG XL", lambda d: d.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL "))),
    ("ICO", lambda d: d.startswith(b"\0\0\1\0")),
    ("PSD", lambda d: d.startswith(b"8BPS")),
)


def read_header(data: bytes, limits: ImageLimits = ImageLimits()) -> ImageHeader:
    """What `data` declares itself to be, without decoding a pixel.

    Raises ImageEmptyError, ImageUnsupportedFormatError, ImageTooLargeError (bytes, side or pixels above
    `limits`), ImageCorruptError.
    """
    return _open(data, limits)[1]


def decode_image(data: bytes, limits: ImageLimits = ImageLimits()) -> Rgb:
    """Decode to a C-contiguous (H, W, 3) uint8 RGB array, orientation applied.

    Raises as `read_header` does, and ImageCorruptError when the pixels are truncated or damaged.
    """
    picture, header = _open(data, limits)
    try:
        picture.load()
        # Some headers grow while they are read on (a GIF frame beyond its canvas).
        _check_size(header.format, picture.width, picture.height, limits)
        rgb = _to_rgb(picture)
    except Exception as error:
        raise _typed(error, header.format) from error
    return np.ascontiguousarray(_oriented(rgb, _orientation(picture)))


def _open(data: bytes, limits: ImageLimits) -> tuple[ImageFile.ImageFile, ImageHeader]:
    if not data:
        raise ImageEmptyError("the image is empty: no bytes were sent")
    if len(data) > limits.max_bytes:
        raise ImageTooLargeError(
            f"the image file has {len(data)} bytes; at most {limits.max_bytes} are accepted",
            metadata={"bytes": str(len(data)), "max_bytes": str(limits.max_bytes)},
        )
    kind = _recognise(data)
    try:
        if kind.name == "WebP":
            # Its decoder allocates the whole canvas when it is made, so the size is read by hand first.
            _check_size(kind.name, *_webp_size(data), limits)
        picture = kind.open(io.BytesIO(data))
        width, height = picture.size
        if isinstance(picture, TiffImagePlugin.TiffImageFile):
            width, height = picture.tag_v2[_TIFF_WIDTH], picture.tag_v2[_TIFF_HEIGHT]
            # A tile is one buffer, whatever the size of the picture it covers.
            tile = (picture.tag_v2.get(_TIFF_TILE_WIDTH, 1), picture.tag_v2.get(_TIFF_TILE_HEIGHT, 1))
            _check_size(kind.name, *tile, limits)
        _check_size(kind.name, width, height, limits)
    except Exception as error:
        raise _typed(error, kind.name) from error
    return picture, ImageHeader(kind.name, width, height)


def _recognise(data: bytes) -> _Format:
    for kind in _FORMATS:
        if kind.matches(data):
            return kind
    detected = next((name for name, matches in _KNOWN_REFUSED if matches(data)), None)
    what = f"{detected} is not accepted" if detected else "the bytes are not an image that is accepted here"
    raise ImageUnsupportedFormatError(
        f"{what}; send {_ACCEPTED}", metadata={"detected": detected} if detected else None
    )


def _typed(error: Exception, kind: str) -> PolysightError:
    """Pillow's parsers meet hostile bytes with a dozen unrelated exceptions; one of ours stands for all."""
    if isinstance(error, PolysightError):
        return error
    metadata = {"format": kind}
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return ImageTooLargeError(f"the {kind} declares more pixels than are accepted", metadata=metadata)
    return ImageCorruptError(f"the {kind} file is truncated or damaged", metadata=metadata)


def _check_size(kind: str, width: int, height: int, limits: ImageLimits) -> None:
    if width < 1 or height < 1:
        raise ImageCorruptError(f"the {kind} declares {width}x{height} pixels", metadata={"format": kind})
    if max(width, height) > limits.max_side or width * height > limits.max_pixels:
        raise ImageTooLargeError(
            f"the {kind} declares {width}x{height} pixels; at most {limits.max_pixels} in all and "
            f"{limits.max_side} along a side are accepted",
            metadata={
                "width": str(width),
                "height": str(height),
                "max_pixels": str(limits.max_pixels),
                "max_side": str(limits.max_side),
            },
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Canvas width and height from the first chunk of a WebP file (RFC 9649, section 2)."""
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L" and len(data) >= 25 and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    if chunk == b"VP8 " and len(data) >= 30 and data[23:26] == b"\x9d\x01\x2a":
        width, height = int.from_bytes(data[26:28], "little"), int.from_bytes(data[28:30], "little")
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("no WebP bitstream where the first chunk should be")


def _to_rgb(picture: Image.Image) -> Rgb:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return np.asarray(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        return np.repeat(_scaled(picture)[:, :, None], 3, axis=2)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        page = Image.new("RGBA", layer.size, "white")
        page.alpha_composite(layer)
        picture = page
    return np.asarray(picture.convert("RGB"))


def _scaled(picture: Image.Image) -> Rgb:
    """Grey of more than 8 bits to (H, W) uint8.

    16-bit modes span 0..65535. 32-bit integers and floats say nowhere what white is, so: values within 0..1
    (floats), 0..255 or 0..65535 are taken at that scale, anything else is stretched from its least to its
    greatest value. What is not finite counts as the least.
    """
    values: NDArray[Any] = np.asarray(picture)
    if picture.mode.startswith("I;16"):
        grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        clear = picture.info.get("transparency")
        return np.where(values == clear, np.uint8(255), grey) if isinstance(clear, int) else grey
    levels = values.astype(np.float64)
    finite = np.isfinite(levels)
    if not finite.all():
        levels = np.where(finite, levels, levels[finite].min(initial=0.0))
    low, high = float(levels.min()), float(levels.max())
    white = 1.0 if picture.mode == "F" else 255.0
    if low < 0 or high > 65535:
        # Halved first: the difference of two finite doubles may not be finite.
        levels, low, high = levels / 2, low / 2, high / 2
        levels, white = levels - low, max(high - low, np.finfo(np.float64).tiny)
    elif high > white:
        white = 255.0 if high <= 255 else 65535.0
    return np.rint(levels * (255.0 / white)).clip(0, 255).astype(np.uint8)


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1 (upright) to 8. Metadata nobody can read is no reason to refuse good pixels."""
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # parsing of damaged EXIF raises what it likes
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _oriented(rgb: Rgb, orientation: int) -> Rgb:
    """Undo an EXIF orientation: 5 to 8 are stored on their side, the others mirrored or upside down."""
    if orientation >= 5:
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return rgb

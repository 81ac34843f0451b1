"""Which JPEG files a device may decode in place of the host: those whose decoding has one meaning.

Everything else (other formats, CMYK and its polarities, RGB without a transform, 12 bits, arithmetic coding, files that
end too soon) stays with `serving.image`, which knows what to make of it or refuses it with a typed error. Only headers
are read here, and only after `serving.image.read_header` has held the file to its limits.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import JpegImagePlugin

from serving.image import ImageLimits, read_header

_ORIENTATION = 0x0112
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
_YCBCR = 1


@dataclass(frozen=True)
class DeviceJpeg:
    """A file that a device may decode: size in pixels as stored, and the EXIF orientation (1 to 8) to undo."""

    height: int
    width: int
    orientation: int


def device_jpeg(data: bytes, limits: ImageLimits) -> DeviceJpeg | None:
    """What to know of `data` if a device may decode it, None where the host has to.

    Raises as `read_header` does: what is refused there reaches no decoder.
    """
    header = read_header(data, limits)
    if header.format != "JPEG":
        return None
    picture = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    transform = picture.info.get("adobe_transform", _YCBCR)
    plain = (
        picture.mode in ("RGB", "L")
        and getattr(picture, "bits", 8) == 8
        and not (picture.mode == "RGB" and transform != _YCBCR)
        # Components named R, G and B are not transformed either, whether or not Adobe says so.
        and not (picture.mode == "RGB" and {part[0] for part in picture.layer} == {82, 71, 66})
        # A thumbnail has an end of its own, before the picture's data begin.
        and data.rfind(_END_OF_IMAGE) > data.rfind(_START_OF_SCAN)
    )
    if not plain:
        return None
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata, which raise what they like: the host shows such a picture as it is
        orientation = 1
    if not (isinstance(orientation, int) and 1 <= orientation <= 8):
        orientation = 1
    return DeviceJpeg(header.height, header.width, orientation)

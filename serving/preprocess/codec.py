"""The little of nvImageCodec that is used, by capability: a Protocol of it, and how it is found.

`nvidia.nvimgcodec` comes as `nvidia-nvimgcodec-cu12` or `-cu13`. Held to its documentation and sources (0.5 to 0.9): a
decoder belongs to one thread; `decode` of one file gives an image on the device or None; the image's memory is asked of
the stream that was named, and goes back to it, so whatever reads the image has to be on that stream.

Not run on hardware.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Protocol, cast

PACKAGES = "nvidia-nvimgcodec-cu12 or nvidia-nvimgcodec-cu13"


class Decoder(Protocol):
    """`nvimgcodec.Decoder`. An image of it has `__dlpack__`: (H, W, 3) uint8, RGB."""

    def decode(self, src: bytes, params: Any, cuda_stream: int) -> Any | None:
        """The image, which is there when the stream comes to it; None where the file cannot be decoded."""
        ...


class Codec(Protocol):
    """The module. Its `ColorSpec` has a member RGB from version 0.4 on, SRGB in some: the default is it."""

    def Decoder(self, *, device_id: int, max_num_cpu_threads: int, options: str) -> Decoder: ...

    def DecodeParams(self, *, apply_exif_orientation: bool, allow_any_depth: bool) -> Any: ...


def codec_installed() -> bool:
    """Whether nvImageCodec could be loaded; loads nothing but the namespace it lies in."""
    try:
        return importlib.util.find_spec("nvidia.nvimgcodec") is not None
    except ModuleNotFoundError:  # not even the namespace
        return False


def load_codec() -> Codec | None:
    """nvImageCodec, or None where it is not installed."""
    return cast(Codec, importlib.import_module("nvidia.nvimgcodec")) if codec_installed() else None

"""Decoding and preparing on a GPU: from a file to a row of the engine's batch, without passing through the host.

Each thread that prepares has a decoder and a stream of its own. A picture is decoded, turned upright, scaled and
normalised on that stream; the engine's stream waits for it on the device and copies it into the batch. The host waits
for none of that: it waits once, for the outputs of the batch. (nvImageCodec returns when its work is in the stream.)

Headers come first and are judged on the host; what the device cannot decode exactly (`jpeg.py`), or fails to decode, is
decoded there too, whose refusals are typed.

Not run on hardware: written to the documentation, type-checked, held on the CPU to a codec of host memory.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.dlpack import from_dlpack

from serving.engine.loss import cuda_explained
from serving.engine.protocol import EngineError
from serving.engine.tensorrt.device import PlacedTensor
from serving.image import ImageLimits, decode_image
from serving.preprocess.codec import PACKAGES, Codec, Decoder, load_codec
from serving.preprocess.jpeg import device_jpeg
from serving.preprocess.recipe import Recipe, SquareRecipe
from serving.preprocess.tensors import prepare, turned

# As libjpeg-turbo does it, which decodes on the host.
_OPTIONS = ":fancy_upsampling=1"

_TRIED_SIDE, _GREY, _TOLERATED = 64, 128, 4

MAX_PIXELS = 25_000_000
"""The largest picture that is decoded on a device unless told otherwise: 75 MB, and 300 MB more to scale it."""


class Lane(Protocol):
    """A stream of one thread."""

    @property
    def handle(self) -> int:
        """As CUDA takes it."""
        ...

    def current(self) -> AbstractContextManager[object]:
        """Within it, torch puts its work into this stream."""
        ...

    def place(self, tensor: torch.Tensor) -> PlacedTensor:
        """`tensor`, which is there when this stream has come so far, as a row for an engine of the same device."""
        ...


@dataclass(frozen=True)
class DevicePicture:
    """`PlacedPicture`: (H, W, 3) uint8 RGB, upright, in the order of `lane`; decoded from `data` under `limits`."""

    pixels: torch.Tensor
    lane: Lane
    data: bytes
    limits: ImageLimits

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns, channels: as a picture on the host has it."""
        height, width, channels = self.pixels.shape
        return height, width, channels

    def prepare(self, recipe: Recipe | SquareRecipe) -> PlacedTensor:
        """The row of the batch that `recipe` makes of it. Raises EngineError when the device fails."""
        with cuda_explained("preparing a picture"), self.lane.current():
            return self.lane.place(prepare(self.pixels, recipe))

    def to_host(self) -> NDArray[np.uint8]:
        """A copy, contiguous; waits for this lane alone. Raises EngineError when the device fails."""
        with cuda_explained("copying a picture from the device"), self.lane.current():
            copied: NDArray[np.uint8] = self.pixels.contiguous().cpu().numpy()
        return copied

    def exact(self) -> NDArray[np.uint8]:
        """Decoded anew by the host. Raises as `serving.image.decode_image`."""
        return decode_image(self.data, self.limits)


class DevicePreparation:
    """Decodes and prepares on one device; used by any number of threads.

    `codec` is nvImageCodec, `new_lane` makes the stream of a thread that comes for the first time, `index` is the GPU
    as the driver counts. Pictures of more than `max_pixels` are left to the host: scaling one takes twelve bytes a
    pixel of device memory, in every thread at once.
    """

    def __init__(
        self, codec: Codec, new_lane: Callable[[], Lane], *, index: int = 0, max_pixels: int = MAX_PIXELS
    ) -> None:
        self._max_pixels = max_pixels
        self._codec = codec
        self._new_lane = new_lane
        self._index = index
        self._params = codec.DecodeParams(apply_exif_orientation=False, allow_any_depth=False)
        self._own = threading.local()

    def decode(self, data: bytes, limits: ImageLimits) -> DevicePicture | NDArray[np.uint8]:
        """The picture on the device, or on the host (H, W, 3) RGB where that has to decode it.

        Raises as `serving.image.decode_image` does, and EngineError when the device fails.
        """
        found = device_jpeg(data, limits)
        if found is None or found.height * found.width > self._max_pixels:
            return decode_image(data, limits)
        with cuda_explained("decoding a picture"):
            lane, decoder = self._of_thread()
            with lane.current():
                image = decoder.decode(data, params=self._params, cuda_stream=lane.handle)
                if image is not None:
                    pixels: torch.Tensor = from_dlpack(image)
                    if pixels.shape == (found.height, found.width, 3) and pixels.dtype == torch.uint8:
                        return DevicePicture(turned(pixels, found.orientation), lane, data, limits)
        return decode_image(data, limits)

    def _of_thread(self) -> tuple[Lane, Decoder]:
        made: tuple[Lane, Decoder] | None = getattr(self._own, "made", None)
        if made is None:
            decoder = self._codec.Decoder(device_id=self._index, max_num_cpu_threads=1, options=_OPTIONS)
            made = self._own.made = (self._new_lane(), decoder)
        return made


def open_preparation(index: int = 0) -> DevicePreparation:
    """Preparation on the GPU of this index, tried once. Raises EngineError saying what is missing or does not work."""
    codec = load_codec()
    if codec is None:
        raise EngineError(f"pictures are prepared on the device with nvImageCodec: install {PACKAGES}")
    from serving.preprocess.cuda import CudaLane

    return tried(lambda: DevicePreparation(codec, lambda: CudaLane(index), index=index))


def tried(make: Callable[[], DevicePreparation]) -> DevicePreparation:
    """The preparation that `make` gives, after it has prepared one picture: what does not work is said before anything
    is served. Raises EngineError.
    """
    file = io.BytesIO()
    Image.new("RGB", (_TRIED_SIDE, _TRIED_SIDE), (_GREY,) * 3).save(file, "JPEG")
    try:
        preparation = make()
        picture = preparation.decode(file.getvalue(), ImageLimits())
        if not isinstance(picture, DevicePicture):
            raise EngineError("it does not decode JPEG")
        picture.prepare(Recipe("bilinear", 8, 8, 8, 8, (0.0,) * 3, (255.0,) * 3))
        middle = picture.to_host()[_TRIED_SIDE // 2, _TRIED_SIDE // 2]
        if np.abs(middle.astype(int) - _GREY).max() > _TOLERATED:
            raise EngineError(f"it decodes a grey of {_GREY} as {middle.tolist()}")
    except Exception as error:  # of a library that has never been met: a missing argument is a TypeError
        raise EngineError(
            f"nvImageCodec is installed, but does not work: {error}. Without it: DEVICE_PREPARATION=false, behind the "
            "prefix of the process"
        ) from error
    return preparation

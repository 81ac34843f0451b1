"""Where the pictures of a process are decoded, decided once and by capability: nothing absent is ever imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from serving.engine.protocol import Engine
from serving.engine.rows import PlacingEngine
from serving.engine.settings import EngineSettings
from serving.image import ImageLimits, decode_image
from serving.preprocess.codec import codec_installed
from serving.preprocess.picture import Picture

if TYPE_CHECKING:
    from serving.preprocess.device import DevicePreparation

Decode = Callable[[bytes, ImageLimits], Picture]
"""From a file to a picture, held to limits first; raises as `serving.image.decode_image`."""

log = structlog.get_logger(__name__)


def _open(gpu: int) -> DevicePreparation:
    from serving.preprocess.device import open_preparation

    return open_preparation(gpu)


def decoder_for(
    settings: EngineSettings,
    *engines: Engine,
    installed: Callable[[], bool] = codec_installed,
    open_device: Callable[[int], DevicePreparation] = _open,
) -> Decode:
    """What decodes pictures for `engines`, which take the same ones: the GPU that they run on, where every one of them
    takes rows from there, nvImageCodec is installed and the settings do not say otherwise; else the host.

    Raises EngineError where nvImageCodec is installed and does not work.
    """
    takes_rows = bool(engines) and all(isinstance(engine, PlacingEngine) for engine in engines)
    if not (settings.device_preparation and takes_rows and installed()):
        return decode_image
    preparation = open_device(settings.gpu)
    log.info("pictures are prepared on the device", gpu=settings.gpu)
    return preparation.decode

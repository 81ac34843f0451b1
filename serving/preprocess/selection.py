"""Whether a process can prepare pictures on the device, found by capability: nothing absent is ever imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from serving.engine.protocol import Engine
from serving.engine.rows import PlacingEngine
from serving.preprocess.codec import codec_installed

if TYPE_CHECKING:
    from serving.preprocess.device import DevicePreparation


def preparation_for(
    engine: Engine, *, index: int = 0, installed: Callable[[], bool] = codec_installed
) -> DevicePreparation | None:
    """Preparation on the GPU of this index, which is the one that `engine` runs on; None where the engine takes no rows
    from a device, or nvImageCodec is not installed: then pictures are prepared on the host.

    Raises EngineError where torch finds no such GPU.
    """
    if not isinstance(engine, PlacingEngine) or not installed():
        return None
    from serving.preprocess.device import open_preparation

    return open_preparation(index)

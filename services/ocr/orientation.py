"""Does a line stand on its head? The angle classifier of PP-OCR, run on whole batches of crops.

Recognition reads upright lines only. The classifier sees the beginning of a line squeezed or padded to 48 x 192
pixels and says 0 or 180 degrees. It costs about a twentieth of recognising the same crop.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.ocr.pixels import resized_planes
from serving.engine import Engine

HEIGHT, WIDTH = 48, 192
_TURNED = 1
# Turning a line that stands upright loses it, so the classifier has to be sure.
TURN_CONFIDENCE = 0.9


class AngleClassifier:
    """Wraps the engine: input float32 (n, 3, 48, 192), output probabilities (n, 2) for 0 and 180 degrees."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._input = engine.inputs[0].name
        self._output = engine.outputs[0].name

    def upside_down(self, crops: Sequence[NDArray[np.uint8]]) -> list[bool]:
        """For each crop (h, w, 3) RGB uint8, whether it has to be turned by 180 degrees."""
        turned: list[bool] = []
        for start in range(0, len(crops), self._engine.max_batch):
            batch = np.zeros(
                (len(crops[start : start + self._engine.max_batch]), 3, HEIGHT, WIDTH), np.float32
            )
            for row, crop in zip(batch, crops[start:], strict=False):
                width = min(max(-(-HEIGHT * crop.shape[1] // crop.shape[0]), 1), WIDTH)
                row[:, :, :width] = resized_planes(crop, width, HEIGHT)
            scores = self._engine.run({self._input: batch})[self._output]
            turned += (scores[:, _TURNED] > TURN_CONFIDENCE).tolist()
        return turned

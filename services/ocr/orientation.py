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
from serving.engine.stacking import BatchBuffer

HEIGHT, WIDTH = 48, 192
_TURNED = 1
# Turning a line that stands upright loses it, so the classifier has to be sure.
TURN_CONFIDENCE = 0.9


class AngleClassifier:
    """Wraps the engine: input float32 (n, 3, 48, 192), output probabilities (n, 2) for 0 and 180 degrees."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._buffer = BatchBuffer()
        self._input = engine.inputs[0].name
        self._output = engine.outputs[0].name

    def prepare(self, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(h, w, 3) RGB uint8 to (3, 48, 192) float32: what `run` takes."""
        tensor = np.zeros((3, HEIGHT, WIDTH), np.float32)
        width = min(max(-(-HEIGHT * crop.shape[1] // crop.shape[0]), 1), WIDTH)
        tensor[:, :, :width] = resized_planes(crop, width, HEIGHT)
        return tensor

    def run(self, batch: Sequence[NDArray[np.float32]]) -> list[bool]:
        """Blocking, at most the engine's batch: for each whether it has to be turned by 180 degrees."""
        scores = self._engine.run({self._input: self._buffer.stack(batch)})[self._output]
        return [bool(turned) for turned in scores[:, _TURNED] > TURN_CONFIDENCE]

    def upside_down(self, crops: Sequence[NDArray[np.uint8]]) -> list[bool]:
        """For each crop (h, w, 3) RGB uint8, whether it has to be turned by 180 degrees."""
        turned: list[bool] = []
        for start in range(0, len(crops), self._engine.max_batch):
            turned += self.run([self.prepare(crop) for crop in crops[start : start + self._engine.max_batch]])
        return turned

"""Read crops of text lines: widths into buckets, buckets into batches, batches through the recogniser.

The recogniser takes 48 rows and any number of columns. A crop is scaled to 48 rows and padded with grey on the
right up to a bucket that depends on its own width alone, never on its neighbours' in the batch: what a line says
does not depend on who else sent one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.ocr.ctc import Reading, decode
from services.ocr.pixels import resized_planes
from serving.engine import Engine

HEIGHT = 48


@dataclass(frozen=True)
class WidthBuckets:
    """Input widths in pixels at 48 rows: `smallest`, then every multiple of `step` above it up to `largest`.

    The recogniser was trained at 320; narrower inputs read nearly the same at less cost. A line longer than
    `largest` is squeezed into it. One run takes `per_run` columns at most, because its output is 9 kB a column.
    """

    smallest: int = 320
    step: int = 32
    largest: int = 3200
    per_run: int = 6400

    def columns(self, crop_height: int, crop_width: int) -> int:
        """How many columns a crop fills when scaled to 48 rows."""
        return min(max(-(-HEIGHT * crop_width // crop_height), 1), self.largest)

    def bucket(self, columns: int) -> int:
        """The padded width for a crop that fills `columns`."""
        return min(max(-(-columns // self.step) * self.step, self.smallest), self.largest)


@dataclass(frozen=True)
class CropBatch:
    """Which crops (indices) share one run, and how wide their input is."""

    width: int
    indices: tuple[int, ...]


def plan_batches(columns: Sequence[int], buckets: WidthBuckets, *, max_batch: int) -> Iterator[CropBatch]:
    """Group crops of equal bucket, at most `max_batch` a run, narrow buckets first; every index exactly once."""
    by_width: dict[int, list[int]] = {}
    for index, count in enumerate(columns):
        by_width.setdefault(buckets.bucket(count), []).append(index)
    for width in sorted(by_width):
        members = by_width[width]
        size = min(max_batch, max(buckets.per_run // width, 1))
        for start in range(0, len(members), size):
            yield CropBatch(width, tuple(members[start : start + size]))


class Recognizer:
    """Wraps the engine: input float32 (n, 3, 48, w), output probabilities (n, steps, classes).

    Raises ValueError when the engine's classes are not those of `charset`.
    """

    def __init__(self, engine: Engine, charset: Sequence[str], buckets: WidthBuckets) -> None:
        classes = engine.outputs[0].shape[-1]
        if isinstance(classes, int) and classes != len(charset):
            raise ValueError(f"the recogniser has {classes} classes, its charset {len(charset)}")
        self._engine = engine
        self._charset = tuple(charset)
        self._buckets = buckets
        self._input = engine.inputs[0].name
        self._output = engine.outputs[0].name

    def read(self, crops: Sequence[NDArray[np.uint8]]) -> list[Reading]:
        """What each crop (h, w, 3) RGB uint8 says, in the order given."""
        columns = [self._buckets.columns(*crop.shape[:2]) for crop in crops]
        readings: list[Reading] = [Reading("", 0.0)] * len(crops)
        for batch in plan_batches(columns, self._buckets, max_batch=self._engine.max_batch):
            tensor = np.zeros((len(batch.indices), 3, HEIGHT, batch.width), dtype=np.float32)
            for row, index in zip(tensor, batch.indices, strict=True):
                row[:, :, : columns[index]] = resized_planes(crops[index], columns[index], HEIGHT)
            probabilities = self._engine.run({self._input: tensor})[self._output]
            for index, reading in zip(batch.indices, decode(probabilities, self._charset), strict=True):
                readings[index] = reading
        return readings

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

from services.ocr.ctc import Reading, Steps, best_classes, decode
from services.ocr.long_lines import Piece, join_pieces, split_line
from services.ocr.pixels import resized_planes
from serving.engine import Engine
from serving.engine.stacking import BatchBuffer

HEIGHT = 48


@dataclass(frozen=True)
class WidthBuckets:
    """Input widths in pixels at 48 rows: `smallest`, then every multiple of `step` above it up to `largest`.

    The recogniser was trained at 320; narrower inputs read nearly the same at less cost. A line longer than
    `largest` is cut into pieces. One run takes `per_run` columns at most, because its output is 9 kB a column.
    """

    smallest: int = 320
    step: int = 32
    largest: int = 3200
    per_run: int = 3200

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


@dataclass(frozen=True)
class LineInput:
    """A piece of a line as the network takes it: (3, 48, bucket) float32, `columns` of them filled."""

    tensor: NDArray[np.float32]
    columns: int

    @property
    def width(self) -> int:
        """Columns of the bucket."""
        return int(self.tensor.shape[2])


@dataclass(frozen=True)
class PreparedLine:
    """A crop ready for the network: one input for each piece it had to be cut into, mostly one."""

    pieces: tuple[Piece, ...]
    inputs: tuple[LineInput, ...]


class Recognizer:
    """Wraps the engine: input float32 (n, 3, 48, w), output probabilities (n, steps, classes).

    Raises ValueError when the engine's classes are not those of `charset`, or its rows are not 48.
    """

    def __init__(self, engine: Engine, charset: Sequence[str], buckets: WidthBuckets) -> None:
        classes = engine.outputs[0].shape[-1]
        if isinstance(classes, int) and classes != len(charset):
            raise ValueError(f"the recogniser has {classes} classes, its charset {len(charset)}")
        rows = engine.inputs[0].shape[2]
        if isinstance(rows, int) and rows != HEIGHT:
            raise ValueError(f"the recogniser takes lines of {rows} rows, not of {HEIGHT}")
        self._engine = engine
        self._charset = tuple(charset)
        self._buckets = buckets
        self._buffer = BatchBuffer()
        self._input = engine.inputs[0].name
        self._output = engine.outputs[0].name

    @property
    def buckets(self) -> WidthBuckets:
        """The widths of inputs."""
        return self._buckets

    def prepare(self, crop: NDArray[np.uint8]) -> PreparedLine:
        """(h, w, 3) RGB uint8, cut where it is too long, scaled and padded."""
        pieces = split_line(crop, max(self._buckets.largest * crop.shape[0] // HEIGHT, 1))
        return PreparedLine(
            tuple(pieces), tuple(self._scaled(crop[:, piece.start : piece.end]) for piece in pieces)
        )

    def run(self, batch: Sequence[LineInput]) -> list[Steps]:
        """Blocking; inputs of one width, at most the engine's batch."""
        tensor = self._buffer.stack([line.tensor for line in batch])
        return best_classes(self._engine.run({self._input: tensor})[self._output], len(self._charset))

    def reading(self, line: PreparedLine, steps: Sequence[Steps]) -> Reading:
        """What a line says whose pieces gave `steps`."""
        readings = [
            decode(piece, self._charset, filled=given.columns / given.width)
            for given, piece in zip(line.inputs, steps, strict=True)
        ]
        return join_pieces(line.pieces, readings)

    def read(self, crops: Sequence[NDArray[np.uint8]]) -> list[Reading]:
        """What each crop (h, w, 3) RGB uint8 says, in the order given."""
        lines = [self.prepare(crop) for crop in crops]
        inputs = [given for line in lines for given in line.inputs]
        columns = [given.columns for given in inputs]
        steps: dict[int, Steps] = {}
        for batch in plan_batches(columns, self._buckets, max_batch=self._engine.max_batch):
            steps.update(zip(batch.indices, self.run([inputs[i] for i in batch.indices]), strict=True))
        in_order = iter([steps[index] for index in range(len(inputs))])
        return [self.reading(line, [next(in_order) for _ in line.inputs]) for line in lines]

    def _scaled(self, piece: NDArray[np.uint8]) -> LineInput:
        columns = self._buckets.columns(*piece.shape[:2])
        tensor = np.zeros((3, HEIGHT, self._buckets.bucket(columns)), dtype=np.float32)
        tensor[:, :, :columns] = resized_planes(piece, columns, HEIGHT)
        return LineInput(tensor, columns)

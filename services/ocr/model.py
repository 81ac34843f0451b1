"""PP-OCR on three engines: detect regions, rectify them, turn what stands on its head, read, put in order.

Knows no wire. `preprocess` and `postprocess` are pure and may run in any thread; `infer` uses the engines and
belongs to one device thread. All crops of all images of a batch go through recognition together. `detect`, `cut`,
`line_images` and `line_up` are its parts, for whoever gives each network a thread of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.ocr.binarization import DbSettings, regions_from_map
from services.ocr.crops import crop_line, reading_quad, turn_upside_down
from services.ocr.ctc import Letter, Reading
from services.ocr.detection_input import Frame, network_input, plan_frame
from services.ocr.geometry import Quad, quad_size
from services.ocr.orientation import AngleClassifier
from services.ocr.reading_order import reading_order
from services.ocr.recognition import Recognizer, WidthBuckets
from services.ocr.words import Word, words_of
from serving.engine import Engine
from serving.engine.rows import Row, run_rows
from serving.engine.stacking import BatchBuffer
from serving.preprocess import Picture

# After mapping back and clipping at the border, less than this (pixels, either side) is no text.
_LEAST_SIDE = 3.0
# The angle classifier is overruled where the line as it stands reads this surely, and so much more surely than turned.
# Words that read as words both ways ("NO", "96") come out nearly equal, and of what hardly reads either way it is the
# better judge.
_UPRIGHT_SURE = 0.9
_UPRIGHT_LEAD = 0.1


@dataclass(frozen=True)
class OcrParams:
    """What a request may choose. Thresholds are in [0, 1]."""

    min_confidence: float = 0.5
    min_region_score: float = 0.5
    use_angle: bool = True


@dataclass(frozen=True)
class Limits:
    """How large the detector's input may be: see `detection_input`. Pixels, multiples of 32."""

    min_side: int = 736
    max_side: int = 1280


@dataclass(frozen=True)
class Prepared:
    """One image ready for the detector: (H, W, 3) RGB uint8 on the host, since lines are cut out there, and the
    detector's input (3, h, w) float32."""

    image: NDArray[np.uint8]
    tensor: Row
    frame: Frame
    params: OcrParams


@dataclass(frozen=True)
class RawLine:
    """One recognised region; `quad` in pixels of the image, counted from where the line begins."""

    quad: Quad
    text: str
    confidence: float
    upside_down: bool
    letters: tuple[Letter, ...] = ()


@dataclass(frozen=True)
class Raw:
    """All recognised regions of one image, unfiltered and in no particular order."""

    lines: tuple[RawLine, ...]
    width: int
    height: int


@dataclass(frozen=True)
class Line:
    """One line of text.

    `polygon` is (4, 2) float32 x, y in [0, 1] of the image as given, clockwise from where the line begins;
    `box` the tight (x_min, y_min, x_max, y_max) around it; `confidence` in [0, 1]; `words` in the order in which they
    are read, their quads like `polygon`.
    """

    text: str
    confidence: float
    polygon: NDArray[np.float32]
    box: tuple[float, float, float, float]
    upside_down: bool
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Result:
    """Lines in reading order; empty for an image without text. Sizes in pixels."""

    lines: tuple[Line, ...]
    width: int
    height: int


@dataclass(frozen=True)
class Crop:
    """One region cut out and laid flat: (h, w, 3) RGB uint8, its quad in pixels of the picture, whether it ran down."""

    image: NDArray[np.uint8]
    quad: Quad
    vertical: bool


class OcrModel:
    """Three engines and a character list. `classifier` None: lines are never turned.

    Raises ValueError when the recogniser's classes are not those of `charset`.
    """

    def __init__(
        self,
        detector: Engine,
        recognizer: Engine,
        classifier: Engine | None,
        charset: Sequence[str],
        *,
        limits: Limits | None = None,
        db: DbSettings | None = None,
        buckets: WidthBuckets | None = None,
    ) -> None:
        self._detector = detector
        self._buffer = BatchBuffer()
        self.recognizer = Recognizer(recognizer, charset, buckets or WidthBuckets())
        self.classifier = AngleClassifier(classifier) if classifier is not None else None
        self._limits = limits or Limits()
        self._db = db or DbSettings()
        self._engines = [engine for engine in (detector, recognizer, classifier) if engine is not None]

    def preprocess(self, image: Picture, params: OcrParams) -> Prepared:
        """Scale and normalise `image` (H, W, 3) RGB uint8 for the detector."""
        frame = plan_frame(*image.shape[:2], min_side=self._limits.min_side, max_side=self._limits.max_side)
        tensor = network_input(image, frame)
        pixels = image if isinstance(image, np.ndarray) else image.to_host()
        return Prepared(image=pixels, tensor=tensor, frame=frame, params=params)

    def detect(self, batch: Sequence[Prepared]) -> list[NDArray[np.float32]]:
        """Blocking: for each image the detector's map (h, w) of its input. Images of one input size share a run."""
        by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, prepared in enumerate(batch):
            by_shape[prepared.tensor.shape].append(index)
        found: dict[int, NDArray[np.float32]] = {}
        for indices in by_shape.values():
            for start in range(0, len(indices), self._detector.max_batch):
                group = indices[start : start + self._detector.max_batch]
                name = self._detector.inputs[0].name
                maps = run_rows(
                    self._detector, {name: [batch[i].tensor for i in group]}, {name: self._buffer}
                )
                found.update(zip(group, maps[self._detector.outputs[0].name][:, 0], strict=True))
        return [found[index] for index in range(len(batch))]

    def cut(self, prepared: Prepared, probabilities: NDArray[np.float32]) -> list[Crop]:
        """The regions of one image that may hold text, cut out of it."""
        regions = regions_from_map(
            probabilities, min_score=prepared.params.min_region_score, settings=self._db
        )
        crops = []
        for region in regions:
            quad = prepared.frame.to_image(region.quad)
            if min(quad_size(quad)) >= _LEAST_SIDE:
                image, vertical = crop_line(prepared.image, quad)
                crops.append(Crop(image, quad, vertical))
        return crops

    def infer(self, batch: Sequence[Prepared]) -> list[Raw]:
        """Run all three networks over a batch of images, blocking; the result is in the same order.

        What `services.ocr.stages` does with each network on a thread of its own.
        """
        maps = self.detect(batch)
        cut = [self.cut(prepared, found) for prepared, found in zip(batch, maps, strict=True)]
        asked = [
            crop.image
            for prepared, crops in zip(batch, cut, strict=True)
            for crop in crops
            if prepared.params.use_angle
        ]
        down = iter(
            self.classifier.upside_down(asked) if self.classifier is not None else [False] * len(asked)
        )
        proposed = [
            [prepared.params.use_angle and next(down) for _ in crops]
            for prepared, crops in zip(batch, cut, strict=True)
        ]
        readings = iter(
            self.recognizer.read(
                [
                    image
                    for crops, turn in zip(cut, proposed, strict=True)
                    for image in line_images(crops, turn)
                ]
            )
        )
        return [
            line_up(prepared, crops, turn, [next(readings) for _ in range(len(crops) + sum(turn))])
            for prepared, crops, turn in zip(batch, cut, proposed, strict=True)
        ]

    def postprocess(self, raw: Raw, params: OcrParams) -> Result:
        """Drop what is blank or below `params.min_confidence`, order the rest, normalise coordinates."""
        kept = [line for line in raw.lines if line.text.strip() and line.confidence >= params.min_confidence]
        order = reading_order([line.quad for line in kept])
        size = np.array([raw.width, raw.height], dtype=np.float32)
        return Result(
            lines=tuple(_normalised(kept[index], size) for index in order),
            width=raw.width,
            height=raw.height,
        )

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Run all networks on blank input: the detector for each number of images, at its largest input (which settles
        how much memory it holds), the others alone and on full batches."""
        side = self._limits.max_side
        largest = self.preprocess(np.zeros((side, side, 3), dtype=np.uint8), OcrParams())
        for size in batch_sizes:
            self.detect([largest] * size)
        buckets = self.recognizer.buckets
        for size in (1, self._engines[1].max_batch):
            width = max(buckets.per_run // size // buckets.step * buckets.step, buckets.smallest)
            for columns in (buckets.smallest, min(width, buckets.largest)):
                self.recognizer.read([np.zeros((48, columns, 3), dtype=np.uint8)] * size)
            if self.classifier is not None:
                self.classifier.upside_down([np.zeros((48, 192, 3), dtype=np.uint8)] * size)

    def close(self) -> None:
        """Close the engines."""
        for engine in self._engines:
            engine.close()


def line_images(crops: Sequence[Crop], proposed: Sequence[bool]) -> list[NDArray[np.uint8]]:
    """What recognition has to read of one image: every crop as it stands, then those that may stand on their head,
    turned."""
    turned = [turn_upside_down(crop.image) for crop, turn in zip(crops, proposed, strict=True) if turn]
    return [*(crop.image for crop in crops), *turned]


def line_up(
    prepared: Prepared, crops: Sequence[Crop], proposed: Sequence[bool], readings: Sequence[Reading]
) -> Raw:
    """Put together what `line_images` read as.

    The classifier proposes, recognition decides: the classifier squeezes long lines until it cannot tell, so a line it
    wants turned is read both ways, in the same batches as the rest.
    """
    flipped = iter(readings[len(crops) :])
    lines = []
    for crop, turn, reading in zip(crops, proposed, readings, strict=False):
        turned = False
        if turn:
            other = next(flipped)
            standing = reading.confidence
            if standing < _UPRIGHT_SURE or standing < other.confidence + _UPRIGHT_LEAD:
                reading, turned = other, True  # noqa: PLW2901 - the other way round is the reading from here on
        quad = reading_quad(crop.quad, vertical=crop.vertical, upside_down=turned)
        lines.append(RawLine(quad, reading.text, reading.confidence, turned, reading.letters))
    return Raw(lines=tuple(lines), width=prepared.frame.width, height=prepared.frame.height)


def _normalised(line: RawLine, size: NDArray[np.float32]) -> Line:
    polygon = np.clip(line.quad / size, 0.0, 1.0).astype(np.float32)
    (x_min, y_min), (x_max, y_max) = polygon.min(axis=0), polygon.max(axis=0)
    return Line(
        text=line.text,
        confidence=line.confidence,
        polygon=polygon,
        box=(float(x_min), float(y_min), float(x_max), float(y_max)),
        upside_down=line.upside_down,
        words=words_of(line.letters, polygon),
    )

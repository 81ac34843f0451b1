"""PP-OCR on three engines: detect regions, rectify them, turn what stands on its head, read, put in order.

Knows no wire. `preprocess` and `postprocess` are pure and may run in any thread; `infer` uses the engines and
belongs to one device thread. All crops of all images of a batch go through recognition together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.ocr.binarization import DbSettings, Region, regions_from_map
from services.ocr.crops import crop_line, reading_quad, turn_upside_down
from services.ocr.ctc import Reading
from services.ocr.detection_input import Frame, detector_input, plan_frame
from services.ocr.geometry import Quad, quad_size
from services.ocr.orientation import AngleClassifier
from services.ocr.reading_order import reading_order
from services.ocr.recognition import Recognizer, WidthBuckets
from serving.engine import Engine

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
    """One image ready for the device: (H, W, 3) RGB uint8 and the detector's input (1, 3, h, w) float32."""

    image: NDArray[np.uint8]
    tensor: NDArray[np.float32]
    frame: Frame
    params: OcrParams


@dataclass(frozen=True)
class RawLine:
    """One recognised region; `quad` in pixels of the image, counted from where the line begins."""

    quad: Quad
    text: str
    confidence: float
    upside_down: bool


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
    `box` the tight (x_min, y_min, x_max, y_max) around it; `confidence` in [0, 1].
    """

    text: str
    confidence: float
    polygon: NDArray[np.float32]
    box: tuple[float, float, float, float]
    upside_down: bool


@dataclass(frozen=True)
class Result:
    """Lines in reading order; empty for an image without text. Sizes in pixels."""

    lines: tuple[Line, ...]
    width: int
    height: int


@dataclass
class _Crops:
    """The crops of a whole batch and where each came from."""

    images: list[NDArray[np.uint8]] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    quads: list[Quad] = field(default_factory=list)
    vertical: list[bool] = field(default_factory=list)


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
        self._recognizer = Recognizer(recognizer, charset, buckets or WidthBuckets())
        self._classifier = AngleClassifier(classifier) if classifier is not None else None
        self._limits = limits or Limits()
        self._db = db or DbSettings()
        self._engines = [engine for engine in (detector, recognizer, classifier) if engine is not None]

    def preprocess(self, image: NDArray[np.uint8], params: OcrParams) -> Prepared:
        """Scale and normalise `image` (H, W, 3) RGB uint8 for the detector."""
        frame = plan_frame(*image.shape[:2], min_side=self._limits.min_side, max_side=self._limits.max_side)
        return Prepared(image=image, tensor=detector_input(image, frame), frame=frame, params=params)

    def infer(self, batch: Sequence[Prepared]) -> list[Raw]:
        """Run all three networks over a batch of images; the result is in the same order."""
        crops = _Crops()
        for owner, (prepared, regions) in enumerate(zip(batch, self._detect(batch), strict=True)):
            for region in regions:
                _cut(crops, owner, prepared, region)
        readings, turned = self._read(crops, [prepared.params.use_angle for prepared in batch])
        lines: list[list[RawLine]] = [[] for _ in batch]
        for index, reading in enumerate(readings):
            quad = reading_quad(crops.quads[index], vertical=crops.vertical[index], upside_down=turned[index])
            lines[crops.owners[index]].append(
                RawLine(quad, reading.text, reading.confidence, upside_down=turned[index])
            )
        return [
            Raw(lines=tuple(found), width=prepared.frame.width, height=prepared.frame.height)
            for found, prepared in zip(lines, batch, strict=True)
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
        """Run all networks on blank input: the detector for each number of images, the others on full batches."""
        side = self._limits.min_side
        blank = self.preprocess(np.zeros((side, side, 3), dtype=np.uint8), OcrParams())
        for size in batch_sizes:
            self.infer([blank] * size)
        for size in (1, self._engines[1].max_batch):
            lines = [np.zeros((48, 320, 3), dtype=np.uint8)] * size
            self._recognizer.read(lines)
            if self._classifier is not None:
                self._classifier.upside_down(lines)

    def close(self) -> None:
        """Close the engines."""
        for engine in self._engines:
            engine.close()

    def _detect(self, batch: Sequence[Prepared]) -> list[list[Region]]:
        """Regions of each image in map coordinates; images of one input size share a run."""
        by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, prepared in enumerate(batch):
            by_shape[prepared.tensor.shape].append(index)
        found: list[list[Region]] = [[] for _ in batch]
        for indices in by_shape.values():
            for start in range(0, len(indices), self._detector.max_batch):
                group = indices[start : start + self._detector.max_batch]
                maps = self._detector.run(
                    {self._detector.inputs[0].name: np.concatenate([batch[i].tensor for i in group])}
                )[self._detector.outputs[0].name]
                for i, probabilities in zip(group, maps[:, 0], strict=True):
                    found[i] = regions_from_map(
                        probabilities, min_score=batch[i].params.min_region_score, settings=self._db
                    )
        return found

    def _read(self, crops: _Crops, use_angle: Sequence[bool]) -> tuple[list[Reading], list[bool]]:
        """What each crop says, and which ones had to be turned by 180 degrees for it.

        The classifier proposes, recognition decides: it squeezes long lines until it cannot tell, so a line it
        wants turned is read both ways, in the same batches as the rest.
        """
        proposed: list[int] = []
        if self._classifier is not None:
            asked = [i for i, owner in enumerate(crops.owners) if use_angle[owner]]
            down = self._classifier.upside_down([crops.images[i] for i in asked])
            proposed = [i for i, is_down in zip(asked, down, strict=True) if is_down]
        readings = self._recognizer.read(
            [*crops.images, *(turn_upside_down(crops.images[i]) for i in proposed)]
        )
        upright, flipped = readings[: len(crops.images)], readings[len(crops.images) :]
        turned = [False] * len(upright)
        for i, reading in zip(proposed, flipped, strict=True):
            standing = upright[i].confidence
            if standing < _UPRIGHT_SURE or standing < reading.confidence + _UPRIGHT_LEAD:
                upright[i] = reading
                turned[i] = True
        return upright, turned


def _cut(crops: _Crops, owner: int, prepared: Prepared, region: Region) -> None:
    quad = prepared.frame.to_image(region.quad)
    if min(quad_size(quad)) < _LEAST_SIDE:
        return
    crop, vertical = crop_line(prepared.image, quad)
    crops.images.append(crop)
    crops.owners.append(owner)
    crops.quads.append(quad)
    crops.vertical.append(vertical)


def _normalised(line: RawLine, size: NDArray[np.float32]) -> Line:
    polygon = np.clip(line.quad / size, 0.0, 1.0).astype(np.float32)
    (x_min, y_min), (x_max, y_max) = polygon.min(axis=0), polygon.max(axis=0)
    return Line(
        text=line.text,
        confidence=line.confidence,
        polygon=polygon,
        box=(float(x_min), float(y_min), float(x_max), float(y_max)),
        upside_down=line.upside_down,
    )

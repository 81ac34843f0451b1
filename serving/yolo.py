"""Pictures into YOLO networks and detections out of them, without the framework that trained them.

What is reproduced is ultralytics' own `predict` with its defaults, so that serving a checkpoint costs no
accuracy: the picture is scaled so that its longer side is 640 pixels, padded with grey to a multiple of the
network's stride, and the raw predictions go through per-class non-maximum suppression; masks are drawn from
prototypes at the resolution of the picture. The exported graph has one input, `images` (batch x 3 x height x
width, float32, RGB, 0-1), and as outputs `output0` (batch x 4 + classes + coefficients x anchors: centre x,
centre y, width, height in input pixels, then class probabilities, then mask coefficients) and, for
segmentation, `output1` (batch x 32 x height/4 x width/4, prototypes).

Pure functions of arrays: no wire, no engine state. Needs OpenCV, for its resize: equal to the bit to what
ultralytics feeds the network, in a twentieth of the time that numpy takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from serving.engine import Engine
from serving.engine.rows import Row, run_rows
from serving.engine.stacking import BatchBuffer
from serving.preprocess import Picture, Recipe

INPUT_SIZE = 640
STRIDE = 32
NMS_IOU = 0.7
_PAD_VALUE = 114
_PROTOTYPE_STRIDE = 4

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Letterbox:
    """Where a picture lies inside the network's input.

    `height`, `width`: the picture, in pixels. `input_height`, `input_width`: the network's input. The picture
    was scaled to `scaled_height` x `scaled_width` and its upper left corner put at (`left`, `top`) of the
    input.
    """

    height: int
    width: int
    input_height: int
    input_width: int
    scaled_height: int
    scaled_width: int
    top: int
    left: int

    @classmethod
    def fit(cls, height: int, width: int, *, size: int = INPUT_SIZE, rectangular: bool = True) -> Letterbox:
        """Fit a picture into a square of `size`; `rectangular` cuts the padding to what the stride needs."""
        gain = min(size / height, size / width)
        scaled_height, scaled_width = max(round(height * gain), 1), max(round(width * gain), 1)
        pad_y, pad_x = size - scaled_height, size - scaled_width
        if rectangular:
            pad_y, pad_x = pad_y % STRIDE, pad_x % STRIDE
        # Halves are rounded as the training framework does: an odd pixel of padding goes below and to the
        # right.
        top, left = round(pad_y / 2 - 0.1), round(pad_x / 2 - 0.1)
        return cls(
            height, width, scaled_height + pad_y, scaled_width + pad_x, scaled_height, scaled_width, top, left
        )

    def to_picture(self, boxes: Float) -> Float:
        """Boxes (N, 4) xyxy of the input as boxes of the picture, in pixels, clipped to it."""
        # One gain an axis: each side was rounded to whole pixels on its own.
        gain = np.array([self.scaled_width / self.width, self.scaled_height / self.height] * 2, np.float32)
        offset = np.array([self.left, self.top] * 2, np.float32)
        scaled: Float = (boxes - offset) / gain
        return np.clip(scaled, np.float32(0), np.array([self.width, self.height] * 2, np.float32))


def letterbox(
    image: NDArray[np.uint8], *, size: int = INPUT_SIZE, rectangular: bool = True
) -> tuple[Float, Letterbox]:
    """Scale and pad a picture for the network.

    `image`: (H, W, 3) uint8 RGB. Returns (3, input_height, input_width) float32 in 0-1, contiguous, and the
    geometry.
    """
    height, width = image.shape[:2]
    fit = Letterbox.fit(height, width, size=size, rectangular=rectangular)
    scaled = image
    if (fit.scaled_height, fit.scaled_width) != (height, width):
        size_xy = (fit.scaled_width, fit.scaled_height)
        scaled = np.asarray(cv2.resize(image, size_xy, interpolation=cv2.INTER_LINEAR), np.uint8)
    canvas = np.full((3, fit.input_height, fit.input_width), _PAD_VALUE / 255, np.float32)
    inside = canvas[:, fit.top : fit.top + fit.scaled_height, fit.left : fit.left + fit.scaled_width]
    np.divide(scaled.transpose(2, 0, 1), np.float32(255), out=inside)
    return canvas, fit


def network_input(picture: Picture, *, rectangular: bool = True) -> tuple[Row, Letterbox]:
    """What `letterbox` makes of a picture, on the device if that is where it is."""
    if isinstance(picture, np.ndarray):
        return letterbox(picture, rectangular=rectangular)
    height, width, _ = picture.shape
    fit = Letterbox.fit(height, width, rectangular=rectangular)
    return picture.prepare(letterbox_recipe(fit)), fit


def letterbox_recipe(fit: Letterbox) -> Recipe:
    """`letterbox` in words that a device can follow."""
    return Recipe(
        "bilinear",
        fit.scaled_height,
        fit.scaled_width,
        fit.input_height,
        fit.input_width,
        mean=(0.0, 0.0, 0.0),
        deviation=(255.0, 255.0, 255.0),
        top=fit.top,
        left=fit.left,
        padding=float(_PAD_VALUE),
    )


def run_batch(
    engine: Engine, tensors: Sequence[Row], buffer: BatchBuffer | None = None
) -> list[dict[str, Float]]:
    """Run prepared pictures through the engine; tensors of one shape share a run, stacked in `buffer`.

    Each tensor is (3, h, w) as `letterbox` or `network_input` made it; the result holds, per tensor and in order,
    the engine's outputs without the batch axis. Shapes may differ within the call, since rectangular letterboxing
    keeps the picture's ratio.
    """
    (name,) = (spec.name for spec in engine.inputs)
    buffer = buffer or BatchBuffer()
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, tensor in enumerate(tensors):
        by_shape.setdefault(tensor.shape, []).append(index)
    results: dict[int, dict[str, Float]] = {}
    for indices in by_shape.values():
        for start in range(0, len(indices), engine.max_batch):
            chunk = indices[start : start + engine.max_batch]
            outputs = run_rows(engine, {name: [tensors[index] for index in chunk]}, {name: buffer})
            for row, index in enumerate(chunk):
                results[index] = {key: value[row] for key, value in outputs.items()}
    return [results[index] for index in range(len(tensors))]


@dataclass(frozen=True)
class Detections:
    """N detections of one picture, best first.

    `boxes`: (N, 4) float32 xyxy in the pixels of whatever the field's owner says (network input or picture).
    `scores`: (N,) float32 in 0-1. `labels`: (N,) int64 class indices. `coefficients`: (N, 32) float32 of
    masks, or (N, 0).
    """

    boxes: Float
    scores: Float
    labels: NDArray[np.int64]
    coefficients: Float

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4) or not count == len(self.scores) == len(self.labels) == len(
            self.coefficients
        ):
            raise ValueError("the arrays of detections do not have one row per detection")

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Detections:
        """The detections at `rows` (indices or a boolean row mask), in that order."""
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows], self.coefficients[rows])


def decode(
    output: Float,
    *,
    classes: int,
    score_threshold: float,
    max_detections: int,
    allowed: NDArray[np.bool_] | None = None,
    iou_threshold: float = NMS_IOU,
) -> Detections:
    """Detections in input pixels from one picture's raw `output0` (4 + classes + coefficients, anchors).

    Each anchor stands for its best class. `allowed`: (classes,) bool; an anchor whose best class is not
    allowed is dropped before suppression, so that other classes neither hide nor crowd out the ones asked
    for.
    """
    scores = output[4 : 4 + classes]
    best = scores.max(axis=0)
    kept = np.flatnonzero(best >= score_threshold)
    labels = scores[:, kept].argmax(axis=0)
    if allowed is not None:
        wanted = allowed[labels]
        kept, labels = kept[wanted], labels[wanted]
    order = np.argsort(-best[kept], kind="stable")
    kept, labels = kept[order], labels[order]
    rows = output[:, kept].T
    centre, half = rows[:, :2], rows[:, 2:4] / 2
    found = Detections(
        boxes=np.concatenate([centre - half, centre + half], axis=1).astype(np.float32),
        scores=best[kept].astype(np.float32),
        labels=labels.astype(np.int64),
        coefficients=np.ascontiguousarray(rows[:, 4 + classes :], dtype=np.float32),
    )
    return found.take(suppress(found, iou_threshold=iou_threshold, max_detections=max_detections))


def suppress(found: Detections, *, iou_threshold: float, max_detections: int) -> NDArray[np.intp]:
    """Greedy non-maximum suppression within each class; `found` is ordered best first.

    Returns the rows that stay, at most `max_detections`, best first. Stops as soon as it has that many, so
    the cost is the number kept times the number of candidates and no candidates-squared matrix is ever held.
    """
    boxes, labels = found.boxes, found.labels
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive = np.arange(len(found))
    stay: list[int] = []
    while len(alive) and len(stay) < max_detections:
        first, rest = alive[0], alive[1:]
        stay.append(int(first))
        corner = np.maximum(boxes[first, :2], boxes[rest, :2])
        extent = np.clip(np.minimum(boxes[first, 2:], boxes[rest, 2:]) - corner, 0, None)
        shared = extent[:, 0] * extent[:, 1]
        union = areas[first] + areas[rest] - shared
        alive = rest[(shared <= iou_threshold * union) | (labels[rest] != labels[first])]
    return np.array(stay, dtype=np.intp)


@dataclass(frozen=True)
class CroppedMask:
    """A binary mask of a picture, kept only where it can be true.

    `pixels`: (h, w) bool, the part of the picture that begins at row `top` and column `left`. `draw_masks` stores it
    down the columns (Fortran order), as run lengths read it.
    """

    top: int
    left: int
    pixels: NDArray[np.bool_]

    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the picture that `pixels` covers."""
        height, width = self.pixels.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def full(self, height: int, width: int) -> NDArray[np.bool_]:
        """The mask over the whole picture, (height, width) bool."""
        mask = np.zeros((height, width), np.bool_, order="F")
        mask[self.window()] = self.pixels
        return mask


def draw_masks(
    coefficients: Float, prototypes: Float, boxes: Float, fit: Letterbox, *, threshold: float = 0.5
) -> list[CroppedMask]:
    """The masks of detections at the resolution of the picture, each cropped to its box.

    `coefficients`: (N, 32). `prototypes`: (32, input_height/4, input_width/4). `boxes`: (N, 4) xyxy in
    picture pixels. A pixel is inside when the bilinear interpolation of its logit says a probability above
    `threshold`. Interpolation is linear and separable, so it is two matrix products per mask over the rows
    and columns of its box alone.
    """
    channels, rows, columns = prototypes.shape
    low = (coefficients @ prototypes.reshape(channels, -1)).reshape(-1, rows, columns)
    edges = (fit.top, fit.top + fit.scaled_height, fit.left, fit.left + fit.scaled_width)
    refine = next(f for f in (1, 2, 4) if all(edge * f % _PROTOTYPE_STRIDE == 0 for edge in edges))
    vertical = _upsampling(rows, refine, fit.top, fit.scaled_height, fit.height)
    horizontal = _upsampling(columns, refine, fit.left, fit.scaled_width, fit.width)
    with np.errstate(divide="ignore"):
        logit = np.float32(np.log(threshold) - np.log1p(-threshold))
    first = np.ceil(boxes[:, :2]).astype(int)
    last = np.ceil(boxes[:, 2:]).astype(int)
    masks: list[CroppedMask] = []
    for grid, (x0, y0), (x1, y1) in zip(low, first, last, strict=True):
        down, across = vertical[y0:y1], horizontal[x0:x1]
        near_y, near_x = _support(down), _support(across)
        by_column = across[:, near_x] @ grid[near_y, near_x].T @ down[:, near_y].T
        masks.append(CroppedMask(int(y0), int(x0), (by_column > logit).T))
    return masks


def _support(weights: Float) -> slice:
    """The columns of an interpolation matrix that are used at all."""
    used = np.flatnonzero(weights.any(axis=0))
    return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)


def _upsampling(cells: int, refine: int, offset: int, scaled: int, size: int) -> Float:
    """The matrix (size, cells) that takes one axis of the prototypes to that axis of the picture.

    As ultralytics does it: prototypes are first refined `refine` times, just enough that the padding ends on
    a whole cell, the padding is cut off, and what is left is stretched over the picture.
    """
    fine = _bilinear(cells, cells * refine)
    start, end = offset * refine // _PROTOTYPE_STRIDE, (offset + scaled) * refine // _PROTOTYPE_STRIDE
    return _bilinear(end - start, size) @ fine[start:end]


def _bilinear(cells: int, size: int) -> Float:
    """The matrix (size, cells) of bilinear interpolation with half-pixel centres and clamped edges."""
    position = np.clip((np.arange(size) + 0.5) * (cells / size) - 0.5, 0, cells - 1)
    lower = np.floor(position).astype(int)
    weight = (position - lower).astype(np.float32)
    matrix = np.zeros((size, cells), np.float32)
    index = np.arange(size)
    matrix[index, lower] = 1 - weight
    matrix[index, np.minimum(lower + 1, cells - 1)] += weight
    return matrix

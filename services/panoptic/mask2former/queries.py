"""What the queries of one image say: the sure ones, their classes, scores and soft masks.

Arithmetic as in transformers' image processor for Mask2Former, in float32 and to the last digit where that decides
something: scores are compared with a threshold and rounded to six digits, soft masks are compared with each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.panoptic.mask2former.bilinear import Bilinear, Float

CANVAS = (384, 384)
"""The size, in pixels, that every mask goes through on its way, whatever the network's input was."""

_LANES = 16


@dataclass(frozen=True)
class SureQueries:
    """K queries of one image, in the network's order.

    `scores`: (K,) float32, above the threshold. `labels`: (K,) intp, none of them "no object". `masks`: (K, 384, 384)
    float32 in 0-1.
    """

    scores: Float
    labels: NDArray[np.intp]
    masks: Float


def sure_queries(class_logits: Float, mask_logits: Float, score_threshold: float) -> SureQueries:
    """Keep the queries whose best class is an object with a score above `score_threshold`.

    `class_logits`: (Q, classes + 1) float32, the last column "no object"; `mask_logits`: (Q, h, w) float32. Only the
    masks that are kept are resized. Raises ValueError when the two disagree on Q.
    """
    if class_logits.ndim != 2 or mask_logits.ndim != 3 or len(class_logits) != len(mask_logits):
        raise ValueError(f"these are not queries: {class_logits.shape} classes, {mask_logits.shape} masks")
    scores, labels = best_class(class_logits)
    sure = np.flatnonzero((labels != class_logits.shape[1] - 1) & (scores > np.float32(score_threshold)))
    resize = Bilinear((mask_logits.shape[1], mask_logits.shape[2]), CANVAS)
    masks = np.empty((len(sure), *CANVAS), np.float32)
    for mask, query in zip(masks, sure, strict=True):
        mask[:] = sigmoid(resize(mask_logits[query]))
    return SureQueries(scores[sure], labels[sure], masks)


def best_class(class_logits: Float) -> tuple[Float, NDArray[np.intp]]:
    """The softmax of each row's largest entry, (Q,) float32, and where it is; the first of equals.

    The denominator is summed as torch does on 16 lanes: entry i into lane i mod 16, then halves onto halves.
    """
    labels = class_logits.argmax(axis=1)
    highest = np.take_along_axis(class_logits, labels[:, None], axis=1)
    shares = np.exp((class_logits - highest).astype(np.float64)).astype(np.float32)
    padded = np.pad(shares, ((0, 0), (0, -shares.shape[1] % _LANES)))
    lanes = np.zeros((len(shares), _LANES), np.float32)
    for first in range(0, padded.shape[1], _LANES):
        lanes += padded[:, first : first + _LANES]
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return np.float32(1) / lanes[:, 0], labels


def sigmoid(logits: Float) -> Float:
    """1 / (1 + exp(-x)), the exponential rounded to float32 once."""
    with np.errstate(over="ignore"):  # the exponential of a large number is infinite, its inverse 0, as meant
        exponentials = np.exp(np.negative(logits, dtype=np.float64)).astype(np.float32)
    exponentials += np.float32(1)
    return np.divide(np.float32(1), exponentials, out=exponentials)

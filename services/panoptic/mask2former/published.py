"""The partition in the form transformers gives it: a map of segment ids and a list of segments.

What `Mask2FormerImageProcessor.post_process_panoptic_segmentation` returns, without torch. The service numbers its
segments itself; this form is for whoever compares with the published systems, and keeps their numbering whole.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.panoptic.mask2former.bilinear import Float
from services.panoptic.mask2former.claims import settle_claims
from services.panoptic.mask2former.queries import SureQueries, sure_queries


@dataclass(frozen=True)
class Thresholds:
    """Least score of a query, least weighted probability of a mask's pixel, least share of it that must be won."""

    score: float
    mask: float
    overlap: float


SERVING = Thresholds(0.5, 0.5, 0.8)
"""The processor's own defaults."""

REFERENCE = Thresholds(0.5, 0.95, 0.8)
"""What CoLLaVO and MoAI set."""


@dataclass(frozen=True)
class PublishedSegment:
    """One entry of `segments_info`; `score` is rounded to six digits."""

    id: int
    label_id: int
    was_fused: bool
    score: float


@dataclass(frozen=True)
class PublishedSegmentation:
    """`segmentation`: (H, W) int32, segment ids from 1, 0 for nobody; -1 throughout if no query was sure (transformers
    makes that one map float32)."""

    segmentation: NDArray[np.int32]
    segments: tuple[PublishedSegment, ...]


def post_process_panoptic(
    class_logits: Float,
    mask_logits: Float,
    *,
    target_sizes: Sequence[tuple[int, int]],
    thresholds: Thresholds = SERVING,
    label_ids_to_fuse: Collection[int] = (),
) -> list[PublishedSegmentation]:
    """`class_logits`: (B, Q, classes + 1), `mask_logits`: (B, Q, h, w), both float32; a (height, width) an image.

    Raises ValueError when the three disagree on B.
    """
    return [
        publish(sure_queries(classes, masks, thresholds.score), target, thresholds, label_ids_to_fuse)
        for classes, masks, target in zip(class_logits, mask_logits, target_sizes, strict=True)
    ]


def publish(
    queries: SureQueries,
    target: tuple[int, int],
    thresholds: Thresholds,
    label_ids_to_fuse: Collection[int] = (),
) -> PublishedSegmentation:
    """Divide a picture of `target` (height, width) pixels among `queries` and number the parts as transformers does.

    With fusing, the first survivor of a fused class numbers the later ones, which are listed again with their own
    scores, and *the counter goes back to it*: a new segment that follows may get a number already given. That is the
    published behaviour; nothing is fused in the published systems.
    """
    if not len(queries.scores):
        return PublishedSegmentation(np.full(target, -1, np.int32), ())
    claims = settle_claims(
        queries, target, mask_threshold=thresholds.mask, overlap_threshold=thresholds.overlap
    )
    numbers = np.zeros(len(queries.scores) + 1, np.int32)  # the last entry is nobody's
    segments: list[PublishedSegment] = []
    fused: dict[int, int] = {}
    current = 0
    for query in claims.survivors:
        label = int(queries.labels[query])
        current = fused.get(label, current + 1)
        if label in label_ids_to_fuse:
            fused[label] = current
        numbers[query] = current
        score = round(float(queries.scores[query]), 6)
        segments.append(PublishedSegment(current, label, label in label_ids_to_fuse, score))
    return PublishedSegmentation(numbers[claims.owner], tuple(segments))

"""The partition in the form transformers gives it: a map of segment ids from 0, -1 for nobody, and a list of segments.

The service numbers its segments itself; this form is for whoever compares with the library.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.panoptic.eomt.claims import settle_claims, sure_queries
from services.panoptic.eomt.pixels import Float


@dataclass(frozen=True)
class PublishedSegment:
    """One entry of `segments_info`; `score` is rounded to six digits."""

    id: int
    label_id: int
    score: float


@dataclass(frozen=True)
class PublishedSegmentation:
    """`segmentation`: (H, W) int32."""

    segmentation: NDArray[np.int32]
    segments: tuple[PublishedSegment, ...]


def post_process_panoptic(
    class_logits: Float,
    mask_logits: Float,
    *,
    target_sizes: Sequence[tuple[int, int]],
    side: int,
    threshold: float = 0.8,
    mask_threshold: float = 0.5,
    overlap_threshold: float = 0.8,
    stuff_classes: Collection[int] = (),
) -> list[PublishedSegmentation]:
    """`class_logits`: (B, Q, classes + 1), `mask_logits`: (B, Q, h, w), both float32; a (height, width) a picture.

    `side`: of the square input. `stuff_classes`: those all of whose segments are one. Raises ValueError when the three
    disagree on B.
    """
    results = []
    for classes, masks, target in zip(class_logits, mask_logits, target_sizes, strict=True):
        queries = sure_queries(classes, masks, threshold)
        claims = settle_claims(
            queries, target, side=side, mask_threshold=mask_threshold, overlap_threshold=overlap_threshold
        )
        numbers = np.full(len(queries.scores) + 1, -1, np.int32)  # the last entry is nobody's
        segments: list[PublishedSegment] = []
        fused: dict[int, int] = {}
        for query in claims.survivors:
            label = int(queries.labels[query])
            numbers[query] = fused.get(label, len(segments))
            if label not in fused:
                segments.append(
                    PublishedSegment(len(segments), label, round(float(queries.scores[query]), 6))
                )
            if label in stuff_classes:
                fused[label] = int(numbers[query])
        results.append(PublishedSegmentation(numbers[claims.owner], tuple(segments)))
    return results

"""Compares panoptic post-processing with golden cases: query logits in, maps of segment ids and segment lists out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cli.golden.record import Case, Record
from cli.golden.sets import GoldenSetError, Tensors
from services.panoptic.mask2former.bilinear import Float
from services.panoptic.mask2former.published import PublishedSegmentation, Thresholds, publish
from services.panoptic.mask2former.queries import best_class, sure_queries

_SECTIONS = ("arguments", "cases")


class GoldenPanoptic:
    """`panoptic/postprocess.json` of a golden set and the arrays beside it.

    Raises:
        GoldenSetError: there is no such file, or it states no arguments or no cases.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "panoptic" / "postprocess.json"
        if not path.exists():
            raise GoldenSetError(f"{path} does not exist")
        self.sections: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if missing := [name for name in _SECTIONS if not self.sections.get(name)]:
            raise GoldenSetError(f"{path} has no {' and no '.join(missing)}")
        self.tensors = Tensors(path.with_suffix(".safetensors"))


def compare_panoptic(golden: GoldenPanoptic, record: Record) -> None:
    """Every case, at every size it states, and every array.

    A case states how many pixels are near a threshold or a tie, too: that tells of the vectors, not of the result, and
    is not compared. Nor is the number type of a map.
    """
    for wanted in golden.sections["cases"]:
        record.case(f"panoptic.{wanted['name']}", partial(_case, wanted=wanted, golden=golden))
    record.unknown(
        "panoptic",
        [
            name
            for name, value in golden.sections.items()
            if name not in _SECTIONS and isinstance(value, list | dict)
        ],
    )
    record.unknown("panoptic.safetensors", golden.tensors.unasked())


def _case(case: Case, *, wanted: Mapping[str, Any], golden: GoldenPanoptic) -> None:
    name = wanted["name"]
    arguments = golden.sections["arguments"] | wanted.get("arguments", {})
    thresholds = Thresholds(
        arguments["threshold"], arguments["mask_threshold"], arguments["overlap_mask_area_threshold"]
    )
    (classes,) = golden.tensors[f"{name}.class_queries_logits"]
    (masks,) = golden.tensors[f"{name}.masks_queries_logits"]
    _queries(case, wanted=wanted, classes=classes, least_score=thresholds.score)
    queries = sure_queries(classes, masks, thresholds.score)
    for output in wanted["outputs"]:
        height, width = output["target_size"]
        ours = publish(queries, (height, width), thresholds, arguments["label_ids_to_fuse"])
        _output(case, ours, wanted=output, prefix=f"{name}.segmentation_{height}x{width}", golden=golden)


def _queries(case: Case, *, wanted: Mapping[str, Any], classes: Float, least_score: float) -> None:
    scores, labels = best_class(classes)
    if "pred_labels" in wanted:
        case.equal("best classes", labels.tolist(), wanted["pred_labels"])
    if "pred_scores" in wanted:
        # To the last digit but one of a float32.
        apart = np.abs(scores - np.array(wanted["pred_scores"])).max(initial=0)
        case.holds(f"scores differ by up to {apart}", bool(apart <= 2e-7))
    if "kept_by_score" in wanted:
        kept = (scores > np.float32(least_score)) & (labels != classes.shape[1] - 1)
        case.equal("queries kept", np.flatnonzero(kept).tolist(), wanted["kept_by_score"])


def _output(
    case: Case,
    ours: PublishedSegmentation,
    *,
    wanted: Mapping[str, Any],
    prefix: str,
    golden: GoldenPanoptic,
) -> None:
    what = prefix.rsplit("_", 1)[1]
    listed = [
        {"id": part.id, "label_id": part.label_id, "was_fused": part.was_fused, "score": part.score}
        for part in ours.segments
    ]
    case.equal(f"{what} segments", listed, wanted["segments_info"])
    ids, pixels = np.unique(ours.segmentation, return_counts=True)
    counted = {str(number): count for number, count in zip(ids.tolist(), pixels.tolist(), strict=True)}
    if "pixels_per_id" in wanted:
        case.equal(f"{what} pixels", counted, wanted["pixels_per_id"])
    if "sha256_int8" in wanted:
        digest = hashlib.sha256(ours.segmentation.astype(np.int8).tobytes()).hexdigest()
        case.equal(f"{what} hash", digest, wanted["sha256_int8"])
    for stored in golden.tensors.names(prefix):
        if stored in (prefix, f"{prefix}_rle"):
            drawn = golden.tensors[stored]
            theirs = drawn if stored == prefix else _drawn(drawn, ours.segmentation.shape)
            same = theirs.shape == ours.segmentation.shape
            apart = int(np.count_nonzero(theirs != ours.segmentation)) if same else ours.segmentation.size
            case.holds(f"{what} map differs in {apart} pixels", apart == 0)


def _drawn(runs: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """(value, length) pairs, row by row, as a map; an empty one if the lengths do not fill it."""
    flat = np.repeat(runs[:, 0], runs[:, 1])
    return flat.reshape(shape) if flat.size == np.prod(shape) else np.empty((0, 0), np.int32)

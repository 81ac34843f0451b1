"""Runs every case of a model's golden vectors and compares every tensor of it.

A case is computed once, from picture and question on, into a dictionary of tensors under golden names; then each
golden tensor is looked up there. A golden tensor that nothing computes is a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cli.golden.llm import collavo, moai
from cli.golden.llm.record import CaseDifferences, ModelParityReport, ModelRecord, distance
from cli.golden.llm.tolerance import fp16_tolerance, is_logits, layer_tolerances, tolerance
from cli.golden.llm.vectors import GoldenCase, GoldenVectors
from cli.golden.sets import GoldenSetError
from llm_server.models.checkpoint import load
from llm_server.models.checkpoint_dimensions import CheckpointError
from llm_server.models.collavo import Collavo
from llm_server.models.moai import Moai
from llm_server.models.precision import precision
from llm_server.models.vision_language import VisionLanguageModel

#: What a case gives; the rest is computed from it.
_GIVEN = frozenset(("image_raw", "seg_class_logits", "seg_mask_logits"))


@torch.inference_mode()
def compare_model(folder: Path, model: str) -> ModelParityReport:
    """Compare one model of a golden set, in float32, with its float16 vectors loosely.

    Raises:
        GoldenSetError: the folder is not laid out like a golden set, or its checkpoint does not load.
    """
    golden = GoldenVectors(folder, model)
    try:
        exact = load(golden.checkpoint)
        half = load(golden.checkpoint, precision("fp16"))
    except CheckpointError as error:
        raise GoldenSetError(str(error)) from error
    record = ModelRecord()
    for name, case in golden.cases.items():
        record.case(name, partial(_case, golden=golden, golden_case=case, exact=exact, half=half))
    for name in golden.stray:
        record.fault(name, "it belongs to no case")
    return record.report()


def _case(
    case: CaseDifferences,
    *,
    golden: GoldenVectors,
    golden_case: GoldenCase,
    exact: VisionLanguageModel,
    half: VisionLanguageModel,
) -> None:
    dimensions = exact.dimensions
    ours = _computed(golden, golden_case, exact, case)
    mixers: Sequence[int] = dimensions.mixer.layers if dimensions.mixer else ()
    for name, theirs in golden_case.tensors.items():
        if name in _GIVEN:
            continue
        if name not in ours:
            case.differences.append(f"{name}: no comparison is known for it")
            continue
        mine = ours[name]
        if name == "hidden_last_position":
            for layer, allowed in enumerate(layer_tolerances(dimensions.language.layers, mixers)):
                case.within(f"{name}, layer {layer}", mine[:, layer], theirs[:, layer], allowed)
            continue
        agrees = case.within(name, mine, theirs, tolerance(dimensions.kind, name, mixers))
        case.greedy_exact |= agrees and name == "greedy_ids"
        case.beam_exact |= agrees and name == "beam3_ids"
        if is_logits(name) and mine.shape == theirs.shape:
            case.max_logits = max(case.max_logits, distance(mine, theirs))
    if golden_case.fp16:
        _compare_half(case, golden, golden_case, half)


def _computed(
    golden: GoldenVectors, golden_case: GoldenCase, model: VisionLanguageModel, case: CaseDifferences
) -> dict[str, Tensor]:
    if isinstance(model, Collavo):
        return collavo.compute(golden, golden_case, model, case)
    if isinstance(model, Moai):
        return moai.compute(golden, golden_case, model, case)
    raise TypeError(type(model).__name__)


def _compare_half(
    case: CaseDifferences, golden: GoldenVectors, golden_case: GoldenCase, half: VisionLanguageModel
) -> None:
    ours: Mapping[str, Tensor] = (
        collavo.compute_half(golden, golden_case, half)
        if isinstance(half, Collavo)
        else moai.compute_half(golden, golden_case, half)
        if isinstance(half, Moai)
        else {}
    )
    for name, theirs in golden_case.fp16.items():
        if name not in ours:
            case.differences.append(f"fp16.{name}: no comparison is known for it")
        else:
            case.within(f"fp16.{name}", ours[name], theirs, fp16_tolerance(name))

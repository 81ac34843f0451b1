"""Compares the project's prompts with golden prompts of MoAI, case by case."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cli.golden.prompt_text import compare_arguments, compare_prompts
from cli.golden.record import Case, Record
from cli.golden.sets import GoldenPrompts, listed_segments, painted
from gateway import reference
from gateway.verbalizer import (
    Detection,
    TextLine,
    Verbalization,
    display_name,
    join_moai,
    verbalize_detections,
    verbalize_regions,
    verbalize_text,
)
from gateway.verbalizer.moai import MAX_RELATIONS, MIN_DETECTION_SCORE
from llm_server.prompts.colour_map import as_model_input, colour_map, palette
from llm_server.prompts.pixels import SIDE, image_tokens, normalisation_tables, normalise

_SECTIONS = ("seg", "od", "sgg", "ocr", "join", "process", "palette")


def compare_moai(golden: GoldenPrompts, record: Record) -> None:
    """Every section of `prompts/moai.json` and every array of its safetensors file."""
    comparisons: Mapping[str, Callable[..., None]] = {
        "seg": _regions,
        "od": _detections,
        "sgg": partial(_relations, golden=golden),
        "ocr": _text,
        "process": partial(_process, golden=golden),
    }
    for section, compare in comparisons.items():
        for wanted in golden.cases(section):
            record.case(f"moai.{section}.{wanted['name']}", partial(compare, wanted=wanted))
    for index, wanted in enumerate(golden.cases("join")):
        record.case(f"moai.join.{index}", partial(_join, wanted=wanted))
    if "palette" in golden.sections:
        record.case("moai.palette", partial(_palette, golden=golden))
    record.unknown("moai", golden.sections_but(_SECTIONS))
    record.unknown("moai.safetensors", golden.tensors.unasked())


def _regions(case: Case, *, wanted: Mapping[str, Any]) -> None:
    grid = painted(wanted, wanted["size"])
    if wanted["raises"]:
        case.fails_as(wanted["raises"]["type"], lambda: (_region_sentence(wanted), colour_map(grid)))
        return
    regions = reference.panoptic_regions(grid, listed_segments(wanted))
    case.equal("text", verbalize_regions(regions).text, wanted["text"])
    case.equal("boxes", [list(region.box) for region in regions], wanted["boxes"])
    case.equal("names", [display_name(region.label) for region in regions], wanted["names"])
    colours = colour_map(grid)
    case.equal("float64 colours", _hash(colours), wanted["colour_map_sha256_float64_hwc"])
    case.equal("float16 colours", _hash(as_model_input(colours)), wanted["colour_map_sha256_float16_chw"])
    samples = [[y, x, [float(value) for value in colours[y, x]]] for y, x, _ in wanted["colour_map_samples"]]
    case.equal("sampled colours", samples, wanted["colour_map_samples"])


def _region_sentence(wanted: Mapping[str, Any]) -> Verbalization:
    grid = painted(wanted, wanted["size"])
    return verbalize_regions(reference.panoptic_regions(grid, listed_segments(wanted)))


def _detections(case: Case, *, wanted: Mapping[str, Any]) -> None:
    if wanted["raises"]:
        case.fails_as(wanted["raises"]["type"], lambda: verbalize_detections(_seen(wanted)))
        return
    kept = [seen for seen in _seen(wanted) if seen.score >= MIN_DETECTION_SCORE]
    case.equal("text", verbalize_detections(_seen(wanted)).text, wanted["text"])
    case.equal("kept boxes", [list(seen.box) for seen in kept], wanted["kept_boxes_0_1"])
    case.equal("kept names", [seen.label for seen in kept], wanted["kept_labels"])


def _seen(wanted: Mapping[str, Any]) -> list[Detection]:
    """Detections of a case; boxes are divided by the side in float32, as the reference does."""
    return [
        Detection(
            name, reference.box_of(np.asarray(box, np.float32) / np.float32(SIDE)), float(np.float32(score))
        )
        for name, box, score in zip(wanted["label_names"], wanted["boxes_px"], wanted["scores"], strict=True)
    ]


def _relations(case: Case, *, golden: GoldenPrompts, wanted: Mapping[str, Any]) -> None:
    output = _relation_output(golden, wanted)
    order = wanted.get("argpartition_order", [])
    if wanted["raises"]:
        case.fails_as(wanted["raises"]["type"], lambda: reference.relation_sentence(output, order))
        return
    case.equal("text in the golden order", reference.relation_sentence(output, order).text, wanted["text"])
    ours = reference.strongest_rows(output)
    strength = output.scores[:, 1:].max(axis=1, initial=0.0)
    if wanted.get("topk"):
        case.equal("relations kept", min(MAX_RELATIONS, len(output.labels)), wanted["topk"])
        strongest = [float(score) for score in strength[ours]]
        for key in ("scores_in_that_order", "partition_values"):
            if key in wanted:
                case.equal(f"their scores ({key})", strongest, sorted(wanted[key], reverse=True))
        if "order_by_score" in wanted:
            ranked = [float(strength[row]) for row in wanted["order_by_score"]]
            case.equal("their order by score", strongest, ranked)
    if not _tie_at_the_edge(strength, len(ours)):
        told = _told(reference.relation_sentence(output, ours))
        case.equal("relations in our order", told, _split(wanted["text"]))
        if wanted.get("text_numpy2") is not None:
            case.equal("relations of the other numpy", told, _split(wanted["text_numpy2"]))


def _relation_output(golden: GoldenPrompts, wanted: Mapping[str, Any]) -> reference.RelationOutput:
    return reference.RelationOutput(
        labels=wanted["labels_1based"],
        pairs=np.asarray(wanted["rel_pair_idxes"], np.int64).reshape(-1, 2),
        scores=golden.tensors[f"sgg.{wanted['name']}.rel_dists"],
        panoptic=np.asarray(wanted["pan_results"], np.int64),
    )


def _tie_at_the_edge(strength: NDArray[np.float32], kept: int) -> bool:
    """Whether the weakest relation kept is as strong as one left out: then the choice is numpy's."""
    ranked = np.sort(strength)[::-1]
    return 0 < kept < len(ranked) and bool(ranked[kept - 1] == ranked[kept])


def _told(sentence: Verbalization) -> Counter[str]:
    return Counter(sentence.text[phrase.start : phrase.end] for phrase in sentence.phrases)


def _split(text: str) -> Counter[str]:
    body = text.removeprefix("The image includes relationships between objects: ").removesuffix(".")
    return Counter(body.split(", and ")) if body else Counter()


def _text(case: Case, *, wanted: Mapping[str, Any]) -> None:
    if wanted["raises"]:
        case.fails_as(wanted["raises"]["type"], lambda: _text_sentence(wanted))
        return
    case.equal("text", _text_sentence(wanted).text, wanted["text"])


def _text_sentence(wanted: Mapping[str, Any]) -> Verbalization:
    lines = reference.text_lines(wanted["ocr_result"])
    return verbalize_text([TextLine(text, confidence) for text, confidence in lines])


def _join(case: Case, *, wanted: Mapping[str, Any]) -> None:
    regions, detections, relations, text = (Verbalization(text) for text in wanted["inputs"])
    case.equal("text", join_moai(regions, detections, relations, text).text, wanted["text"])


def _process(case: Case, *, golden: GoldenPrompts, wanted: Mapping[str, Any]) -> None:
    """Everything that is prepared for one picture and question."""
    parts = {
        section: next(one for one in golden.cases(section) if one["name"] == wanted[section])
        for section in ("seg", "od", "sgg", "ocr")
    }
    size = parts["seg"]["size"]
    compare_arguments(case, "panoptic", wanted.get("seg_arguments"), reference.panoptic_arguments(*size))
    compare_arguments(case, "detection", wanted.get("od_arguments"), reference.detection_arguments(*size))
    if "od_query_count" in wanted:
        case.equal("detection queries", reference.DETECTION_QUERIES, wanted["od_query_count"])
    if "ocr_input" in wanted:
        case.equal("text reader's input", [[*size, 3], "uint8"], wanted["ocr_input"])
    if wanted["raises"]:
        case.fails_as(wanted["raises"]["type"], lambda: _aux_text(golden, parts))
        return
    aux = _aux_text(golden, parts)
    ids = golden.tokenizer.encode(aux)
    tokens = image_tokens(size[0])
    case.equal("auxiliary text", aux, wanted["aux_text"])
    case.equal("auxiliary ids", ids, wanted["aux_ids"])
    case.equal("auxiliary tokens", len(ids) + tokens, wanted["aux_tokens_total"])
    colours = as_model_input(colour_map(painted(parts["seg"], size)))
    values = normalise(colours)
    spans = [[float(channel.min()), float(channel.max())] for channel in values[0]]
    case.equal("type of the map's pixel values", f"torch.{values.dtype}", wanted["map_pixel_dtype"])
    case.equal("span of the map's pixel values", spans, wanted["map_pixel_min_max_per_channel"])
    compare_prompts(case, wanted, wanted["prompt"], golden.tokenizer, tokens)


def _aux_text(golden: GoldenPrompts, parts: Mapping[str, Mapping[str, Any]]) -> str:
    relations = reference.relation_sentence(
        _relation_output(golden, parts["sgg"]), parts["sgg"].get("argpartition_order", [])
    )
    return join_moai(
        _region_sentence(parts["seg"]),
        verbalize_detections(_seen(parts["od"])),
        relations,
        _text_sentence(parts["ocr"]),
    ).text


def _palette(case: Case, *, golden: GoldenPrompts) -> None:
    wanted = golden.sections["palette"]
    colours = palette()
    pictures = as_model_input(colours[None] / 255.0)
    ours: dict[str, NDArray[Any]] = {
        "palette_134x3_uint8": colours,
        "palette_134x3_float64": colours / 255.0,
        "palette_normalised_float32": normalise(pictures, np.float32)[0, :, 0].T,
        "palette_normalised_float16": normalise(pictures, np.float16)[0, :, 0].T,
        "clip_mean_float16": normalisation_tables(np.float16)[0],
        "clip_std_float16": normalisation_tables(np.float16)[1],
    }
    for name, array in ours.items():
        if golden.tensors.names(name):
            kept = golden.tensors[name]
            case.equal(f"{name} type", str(array.dtype), str(kept.dtype))
            case.holds(f"{name} differs", np.array_equal(array, kept))
    for dtype in ("float32", "float16"):
        values = ours[f"palette_normalised_{dtype}"]
        distinct = [len(np.unique(values[:, channel])) for channel in range(3)]
        case.equal(f"{dtype} values a channel", distinct, wanted[f"distinct_values_per_channel_{dtype}"])
        span = [float(values[:, channel].max() - values[:, channel].min()) for channel in range(3)]
        case.equal(f"{dtype} span", span, wanted[f"span_{dtype}"])


def _hash(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()

"""Compares the project's prompts with golden prompts of CoLLaVO, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cli.golden.pictures import compare_positions, compare_squash
from cli.golden.prompt_text import compare_arguments, compare_prompts
from cli.golden.record import Case, Record
from cli.golden.sets import GoldenPrompts, listed_segments, painted
from gateway import reference
from gateway.crayon import CrayonMaps, GridSegment
from gateway.verbalizer import CrayonObject, coordinate_text, crayon_question, verbalize_collavo
from gateway.verbalizer.names import display_name
from llm_server.prompts.box_parser import AnswerFormatError, parse_named_boxes
from llm_server.prompts.image_span import image_span
from llm_server.prompts.internlm import SYSTEM, trim
from llm_server.prompts.pixels import image_tokens

_SECTIONS = (
    "crayon",
    "over_twenty",
    "system_prompt",
    "system_im_mask_length",
    "coordinate_text",
    "box_and_class_parser",
    "tokenizer",
    "output_trimming",
    "resize_490",
)


def compare_collavo(golden: GoldenPrompts, record: Record) -> None:
    """Every section of `prompts/collavo.json` and every array of its safetensors file."""
    for wanted in golden.cases("crayon"):
        record.case(f"collavo.crayon.{wanted['name']}", partial(_crayon, golden=golden, wanted=wanted))
    if "over_twenty" in golden.sections:
        record.case("collavo.over_twenty", partial(_over_twenty, wanted=golden.sections["over_twenty"]))
    if "system_prompt" in golden.sections:
        record.case("collavo.system_prompt", partial(_system, golden=golden))
    for index, wanted in enumerate(golden.cases("coordinate_text")):
        record.case(f"collavo.coordinate_text.{index}", partial(_coordinate, wanted=wanted))
    for index, wanted in enumerate(golden.cases("box_and_class_parser")):
        record.case(f"collavo.box_and_class_parser.{index}", partial(_parser, wanted=wanted))
    for index, wanted in enumerate(golden.cases("tokenizer")):
        record.case(f"collavo.tokenizer.{index}", partial(_tokenizer, golden=golden, wanted=wanted))
    for index, wanted in enumerate(golden.cases("output_trimming")):
        record.case(f"collavo.output_trimming.{index}", partial(_trimming, wanted=wanted))
    resize = golden.sections.get("resize_490", {"cases": []})
    for index, wanted in enumerate(resize["cases"]):
        places = resize["sample_positions_y_x_c"]
        record.case(f"collavo.resize_490.{index}", partial(compare_squash, wanted=wanted, places=places))
    if golden.tensors.names("clip_position."):
        record.case("collavo.clip_position", partial(compare_positions, tensors=golden.tensors))
    record.unknown("collavo", golden.sections_but(_SECTIONS))
    record.unknown("collavo.safetensors", golden.tensors.unasked())


def _crayon(case: Case, *, golden: GoldenPrompts, wanted: Mapping[str, Any]) -> None:
    grid = painted(wanted, wanted["grid"])
    segments = listed_segments(wanted)
    if wanted["raises"]:
        case.fails_as(wanted["raises"]["type"], lambda: _crayon_prompt(grid, segments))
        return
    maps, objects = _crayon_prompt(grid, segments)
    sentence = verbalize_collavo(objects)
    if (grid > 0).any():
        prefix = f"crayon.{wanted['name']}"
        _same_map(case, "class map", maps.classes, golden.tensors[f"{prefix}.class"])
        _same_map(case, "ordinal map", maps.ordinals, golden.tensors[f"{prefix}.ordinal"])
    else:
        for name in golden.tensors.names(f"crayon.{wanted['name']}."):
            case.holds(f"{name} is all zero", not golden.tensors[name].any())
        case.holds("our maps are all zero", not maps.classes.any() and not maps.ordinals.any())
    if "boxes" in wanted:
        case.equal("boxes", [list(seen.box) for seen in objects], wanted["boxes"])
        case.equal("names", [display_name(seen.label) for seen in objects], wanted["names"])
        told = sentence.text.removeprefix("The image includes ").removesuffix(".")
        case.equal("objects", told, wanted["objects_text"])
    ours = reference.panoptic_arguments(*wanted["grid"])
    compare_arguments(case, "post-processing", wanted.get("postprocess_arguments"), ours)
    question = crayon_question(sentence, wanted["prompt"])
    compare_prompts(case, wanted, question, golden.tokenizer, grid.size)


def _crayon_prompt(
    grid: NDArray[np.int32], segments: list[GridSegment]
) -> tuple[CrayonMaps, list[CrayonObject]]:
    return reference.crayon_maps(grid, segments), reference.crayon_objects(grid, segments)


def _same_map(case: Case, what: str, ours: NDArray[np.uint8], golden: NDArray[Any]) -> None:
    case.equal(f"{what} shape and type", (ours.shape, str(ours.dtype)), (golden.shape, str(golden.dtype)))
    case.holds(f"{what} differs", np.array_equal(ours, golden))


def _over_twenty(case: Case, *, wanted: Mapping[str, Any]) -> None:
    """A 21st segment of a class: our reference mode says so with a typed error; serving gives it number 0."""
    maps = CrayonMaps(np.ones((1, 21), np.uint8), np.arange(1, 22, dtype=np.uint8)[None])
    case.fails_as(wanted["type"], lambda: reference.check_ordinals(maps))


def _system(case: Case, *, golden: GoldenPrompts) -> None:
    case.equal("system line", SYSTEM, golden.sections["system_prompt"])
    if "system_im_mask_length" in golden.sections:
        ids = golden.tokenizer.encode(SYSTEM)
        span = image_span(ids, image_id=golden.tokenizer.image_id, image_tokens=image_tokens())
        case.equal("length of the system line", span.length, golden.sections["system_im_mask_length"])


def _coordinate(case: Case, *, wanted: Mapping[str, Any]) -> None:
    case.equal("text", coordinate_text(float(np.float32(wanted["float32"]))), wanted["text"])


def _parser(case: Case, *, wanted: Mapping[str, Any]) -> None:
    try:
        named = parse_named_boxes(wanted["text"])
    except AnswerFormatError:
        case.equal("failed", True, wanted["failed"])
        case.equal("boxes and classes", (None, None), (wanted["boxes"], wanted["classes"]))
        return
    case.equal("failed", False, wanted["failed"])
    case.equal("boxes", [[float(np.float32(x)) for x in one.box] for one in named], wanted["boxes"])
    case.equal("classes", [one.name for one in named], wanted["classes"])


def _tokenizer(case: Case, *, golden: GoldenPrompts, wanted: Mapping[str, Any]) -> None:
    ids = golden.tokenizer.encode(wanted["text"])
    case.equal("ids", ids, wanted["ids"])
    case.equal(
        "ids without BOS", golden.tokenizer.encode(wanted["text"], bos=False), wanted["ids_without_bos"]
    )
    case.equal("decoded", golden.tokenizer.decode(ids), wanted["decoded"])
    with_control = golden.tokenizer.decode(ids, skip_control=False)
    case.equal("decoded with control tokens", with_control, wanted["decoded_with_special"])


def _trimming(case: Case, *, wanted: Mapping[str, Any]) -> None:
    case.equal("eval", trim(wanted["text"], "eval"), wanted["eval"])
    case.equal("demo", trim(wanted["text"], "demo"), wanted["demo"])

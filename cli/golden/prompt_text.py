"""Compares what both models' golden cases have in common: prompt text, token ids, image masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from cli.golden.record import Case
from llm_server.prompts.image_span import image_span
from llm_server.prompts.intern_tokenizer import InternTokenizer
from llm_server.prompts.internlm import SYSTEM, Template, prompt, turn


def compare_prompts(
    case: Case, golden: Mapping[str, Any], question: str, tokenizer: InternTokenizer, image_tokens: int
) -> None:
    """Both templates of a case, as far as the case has them."""
    for template in get_args(Template):
        if f"{template}_prompt_text" in golden:
            _compare_prompt(case, golden, question, tokenizer, image_tokens, template)


def _compare_prompt(
    case: Case,
    golden: Mapping[str, Any],
    question: str,
    tokenizer: InternTokenizer,
    image_tokens: int,
    template: Template,
) -> None:
    text = prompt(question, template)
    ids = tokenizer.encode(text)
    span = image_span(ids, image_id=tokenizer.image_id, image_tokens=image_tokens)
    separate = tokenizer.encode(SYSTEM) + tokenizer.encode(turn(question, template), bos=False)
    mask = golden[f"{template}_im_mask"]
    case.equal(f"{template} prompt", text, golden[f"{template}_prompt_text"])
    case.equal(f"{template} ids", ids, golden[f"{template}_input_ids"])
    case.equal(f"{template} length", span.length, mask["length"])
    case.equal(f"{template} image start", span.start, mask["image_start"])
    case.equal(f"{template} image end", span.end, mask["image_end_exclusive"])
    if "ones" in mask:
        case.equal(f"{template} image mask", int(span.image_mask().sum()), mask["ones"])
    same = f"{template}_separate_equals_joint_tokenisation"
    if same in golden:
        case.equal(f"{template} separate and joint ids agree", separate == ids, golden[same])


def compare_arguments(
    case: Case, what: str, golden: Mapping[str, Any] | None, ours: Mapping[str, Any]
) -> None:
    """Arguments that the published system hands to a network's post-processing, if the case has them."""
    if golden is not None:
        case.equal(what, dict(ours), dict(golden))

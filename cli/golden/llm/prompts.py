"""Prompts of a golden case: texts, ids, masks, and what is decoded, compared where they are texts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cli.golden.llm import inputs
from cli.golden.llm.answers import decoded_texts
from cli.golden.llm.record import CaseDifferences
from cli.golden.llm.vectors import GoldenCase, GoldenVectors
from llm_server.models.prompt_batch import PromptBatch, prompt_batch
from llm_server.models.vision_language import VisionLanguageModel


@dataclass(frozen=True)
class CasePrompts:
    """Prompts of a case as token ids, and as a batch with image tokens in place."""

    ids: list[list[int]]
    batch: PromptBatch
    tensors: dict[str, Tensor]


def case_prompts(
    golden: GoldenVectors,
    golden_case: GoldenCase,
    model: VisionLanguageModel,
    questions: list[str],
    case: CaseDifferences,
) -> CasePrompts:
    """Prompts for ``questions``; texts, tokenizer calls and lengths are compared."""
    tokenizer, told = golden.tokenizer, golden_case.told
    texts = inputs.prompt_texts(golden_case, questions)
    case.equal("prompt text", texts, told["prompt_text"])
    for call in told.get("tokenizer_calls", ()):
        wanted = call["text"] if isinstance(call["text"], list) else [call["text"]]
        ours = [tokenizer.encode(text, bos=call["add_special_tokens"]) for text in wanted]
        longest = max(map(len, ours))
        padded = [[tokenizer.eos_id] * (longest - len(ids)) + ids for ids in ours]
        case.equal("tokenizer call", padded, call["ids"])
    ids = [tokenizer.encode(text) for text in texts]
    batch = prompt_batch(
        ids,
        image_id=model.dimensions.language.image_id,
        image_tokens=model.dimensions.vision.tokens,
        pad_id=tokenizer.eos_id,
    )
    return CasePrompts(ids, batch, inputs.batch_tensors(batch, *inputs.padded(ids, tokenizer.eos_id)))


def compare_texts(
    golden: GoldenVectors,
    golden_case: GoldenCase,
    prompts: CasePrompts,
    greedy: Tensor,
    case: CaseDifferences,
) -> None:
    """What the greedy answer decodes to, whole and trimmed."""
    whole, trimmed = decoded_texts(golden, golden_case, prompts.ids, greedy, {golden.tokenizer.eos_id})
    for name, ours in (("decoded_full", whole), ("decoded_trimmed", trimmed)):
        if name in golden_case.told:
            case.equal(name, ours, golden_case.told[name])

"""Decodes a golden case as the published systems do, their padding of batches included."""

from __future__ import annotations

from collections.abc import Callable, Set

import torch
from torch import Tensor

from cli.golden.llm.vectors import GoldenCase, GoldenVectors
from llm_server.models.beam_search import beam_search
from llm_server.models.decoding import DecodingSession, GreedyAnswer, greedy
from llm_server.models.profiles import REFERENCE
from llm_server.prompts.internlm import trim

#: The published `pad_token_id`: what a finished row of a batch is filled with, and what the next forward pass
#: overwrites with EOS, so that only the last column keeps it.
_PAD = -100
_BEAMS = 3

Start = Callable[[], tuple[DecodingSession, Tensor]]


def decode(golden: GoldenVectors, case: GoldenCase, start: Start) -> dict[str, Tensor]:
    """Greedy and beam decoding of a case, each from a fresh session with the logits after the prompts."""
    eos = golden.tokenizer.eos_id
    stop = REFERENCE.stop_ids(eos_id=eos, turn_end_id=golden.turn_end_id)
    out: dict[str, Tensor] = {}
    session, first = start()
    answer = greedy(session, first, stop=stop, max_new=golden.max_new, fill=eos)
    out["greedy_ids"], out["greedy_logits"] = published_padding(answer), answer.logits
    if golden.max_new_beam:
        session, first = start()
        found = beam_search(session, first, beams=_BEAMS, stop=stop, max_new=golden.max_new_beam)
        out["beam3_ids"] = published_beams([each.ids for each in found], golden.max_new_beam, eos)
        out["beam3_scores"] = torch.tensor([each.score for each in found])
    return out


def published_padding(answer: GreedyAnswer) -> Tensor:
    """Ids with the last column of rows that had ended before it as the published generation leaves it."""
    ids = answer.ids.clone()
    for row, length in enumerate(answer.lengths):
        if length < ids.shape[1]:
            ids[row, -1] = _PAD
    return ids


def published_beams(answers: list[tuple[int, ...]], max_new: int, eos: int) -> Tensor:
    """Answers (B, n) as transformers lays them out: EOS where it still fits, then padding."""
    width = min(max(map(len, answers)) + 1, max_new)
    ids = torch.full((len(answers), width), _PAD)
    for row, answer in enumerate(answers):
        ids[row, : len(answer)] = torch.tensor(answer, dtype=torch.long)
        if len(answer) < width:
            ids[row, len(answer)] = eos
    return ids


def decoded_texts(
    golden: GoldenVectors, case: GoldenCase, prompts: list[list[int]], ids: Tensor, stop: Set[int]
) -> tuple[list[str], list[str]]:
    """Prompt and answer of each row as text, whole and trimmed."""
    whole = []
    for prompt, row in zip(prompts, ids.tolist(), strict=True):
        ends = [place for place, token in enumerate(row) if token in stop]
        whole.append(golden.tokenizer.decode([*prompt, *row[: ends[0] if ends else len(row)]]))
    return whole, [trim(text, case.template) for text in whole]

"""Beam search as transformers has it (`early_stopping=False`, length penalty 1): the scores of the published runs.

Each step keeps, of the 2 * beams best continuations of a row's beams, the first `beams` that do not end; those that
end among the first `beams` become hypotheses, scored by their mean log-probability. A row is done once it has `beams`
hypotheses, the worst of which is no worse than the best continuation could still become.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llm_server.models.decoding import Session


@dataclass(frozen=True, order=True)
class Hypothesis:
    """A finished answer: mean log-probability of its tokens (the stop token counted), and the ids without it."""

    score: float
    ids: tuple[int, ...] = field(compare=False)


class _Row:
    """Beams and hypotheses of one prompt."""

    def __init__(self, beams: int) -> None:
        self.beams = beams
        self.hypotheses: list[Hypothesis] = []
        self.done = False

    def add(self, total: float, length: int, ids: tuple[int, ...]) -> None:
        self.hypotheses.append(Hypothesis(total / length, ids))
        if len(self.hypotheses) > self.beams:
            self.hypotheses.remove(min(self.hypotheses))

    def settle(self, best: float, length: int) -> None:
        """Done, if no continuation (``best``: the best total so far, over ``length`` tokens) can still matter."""
        full = len(self.hypotheses) == self.beams
        self.done = self.done or (full and min(self.hypotheses).score >= best / length)


def beam_search(
    session: Session, first: Tensor, *, beams: int, stop: Set[int], max_new: int
) -> list[Hypothesis]:
    """The best answer for each prompt. Prompts are read once; beams share what was read until they part.

    Args:
        session: B prompts, read.
        first: (B, V) logits after them.
        beams: beams a prompt, at least 1.
        stop: ids that end an answer.
        max_new: tokens at most, at least 1.
    """
    count, vocabulary = first.shape
    rows = [_Row(beams) for _ in range(count)]
    session.select(torch.arange(count, device=first.device).repeat_interleave(beams))
    logits = first.repeat_interleave(beams, dim=0)
    # All beams of a prompt are the same at first: only one of them may be continued.
    totals = torch.full((count, beams), -1e9, device=first.device)
    totals[:, 0] = 0
    texts: list[tuple[int, ...]] = [()] * (count * beams)
    width = max(2, 1 + len(stop)) * beams
    for length in range(1, max_new + 1):
        scores = torch.log_softmax(logits.float(), dim=-1).view(count, beams, vocabulary) + totals[..., None]
        best, places = scores.flatten(1).topk(width, dim=1)
        origins, tokens = [0] * (count * beams), [0] * (count * beams)
        grown: list[tuple[int, ...]] = [()] * (count * beams)
        for number, row in enumerate(rows):
            if row.done:
                origins[number * beams : (number + 1) * beams] = [number * beams] * beams
                continue
            kept = 0
            for rank, (total, place) in enumerate(
                zip(best[number].tolist(), places[number].tolist(), strict=True)
            ):
                beam, token = number * beams + place // vocabulary, place % vocabulary
                if token in stop:
                    if rank < beams:
                        row.add(total, length, texts[beam])
                    continue
                slot = number * beams + kept
                totals[number, kept] = total
                origins[slot], tokens[slot], grown[slot] = beam, token, (*texts[beam], token)
                kept += 1
                if kept == beams:
                    break
            row.settle(float(best[number, 0]), length)
        texts = grown
        if length == max_new or all(row.done for row in rows):
            break
        session.select(torch.tensor(origins, device=first.device))
        logits = session.step(torch.tensor(tokens, device=first.device))
    for number, row in enumerate(rows):
        if not row.done:
            for beam in range(beams):
                ids = texts[number * beams + beam]
                row.add(float(totals[number, beam]), len(ids), ids)
    return [max(row.hypotheses) for row in rows]

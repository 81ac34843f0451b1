"""What the engine says of itself, for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did: rows decoded at once, tokens of prompts read, tokens of answers chosen, seconds."""

    rows: int
    prompt_tokens: int
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Of the engine, now: sequences that run and wait, blocks in use, remembered and in all, preemptions so far."""

    running: int = 0
    waiting: int = 0
    blocks_in_use: int = 0
    blocks_remembered: int = 0
    blocks: int = 0
    preemptions: int = 0

"""What every contender of `bench.llm` is asked, and how its answers are timed.

A number of callers ask one question after another, each about a picture of its own (a page of words, as the gateway
writes it), and each wants an answer of a given length: greedy, not ended by the model, so that all do the same work.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_server.prompts import chatml

NAMES = (
    "person",
    "car",
    "dog",
    "chair",
    "bottle",
    "traffic light",
    "umbrella",
    "handbag",
    "bench",
    "bicycle",
)
QUESTIONS = (
    "How many people are in the picture?",
    "What is beside the car?",
    "Is there a dog in the picture?",
)
# What is asked second, about the same picture.
ANOTHER_QUESTION = "Which objects are on the left side of the picture?"
START_WITHIN_S = 0.5


@dataclass(frozen=True)
class Ask:
    """One request: token ids, and how many are wanted back."""

    prompt: tuple[int, ...]
    answer: int


@dataclass
class Heard:
    """When its tokens came, seconds since it was asked; and which they were."""

    tokens: list[int] = field(default_factory=list)
    at: list[float] = field(default_factory=list)


Answerer = Callable[[Ask], Heard]


def picture(seed: int, objects: int = 22) -> str:
    """What the experts saw in a made-up picture: about 450 tokens."""
    draw = random.Random(seed)
    counts: dict[str, int] = {}
    words = []
    for _ in range(objects):
        name = draw.choice(NAMES)
        counts[name] = counts.get(name, 0) + 1
        left, top = draw.uniform(0, 0.7), draw.uniform(0, 0.7)
        right, bottom = left + draw.uniform(0.05, 0.3), top + draw.uniform(0.05, 0.3)
        words.append(f"(#{counts[name]} {name}) [{left:.2f}, {top:.2f}, {right:.2f}, {bottom:.2f}]")
    return f"The image includes {', '.join(words)}."


def prompt(tokenizer: Any, seed: int, question: str) -> tuple[int, ...]:
    """Ids of the conversation, template included, as the server would make them."""
    text = chatml.render([chatml.Turn("user", chatml.first_user_text(picture(seed), question))])
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def asks(tokenizer: Any, streams: int, *, each: int, seed: int = 0) -> list[list[Ask]]:
    """For each of ``streams`` callers ``each`` requests; answers of 16 to 48 tokens."""
    draw = random.Random(seed + streams)
    return [
        [
            Ask(
                prompt(tokenizer, 1000 * streams + 10 * caller + number, draw.choice(QUESTIONS)),
                draw.randint(16, 48),
            )
            for number in range(each)
        ]
        for caller in range(streams)
    ]


def listen(answerer: Answerer, callers: Sequence[Sequence[Ask]]) -> dict[str, Any]:
    """Let all callers ask, each one question after another from a random moment on, and say how it went.

    Wall time is from the first question to the last answer; ``cpu_s`` is this process's own in that time.
    """
    heard: list[Heard] = []
    failures: list[BaseException] = []
    lock = threading.Lock()
    draw = random.Random(len(callers))
    starts = [0.0] + [draw.uniform(0, START_WITHIN_S) for _ in callers[1:]]

    def ask_all(questions: Sequence[Ask], wait_s: float) -> None:
        time.sleep(wait_s)
        try:
            for one in questions:
                answer = answerer(one)
                with lock:
                    heard.append(answer)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask_all, args=pair) for pair in zip(callers, starts, strict=True)]
    began, began_cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - began
    if failures:
        raise failures[0]
    return {
        "wall_s": wall,
        "cpu_s": time.process_time() - began_cpu,
        "first_s": [one.at[0] for one in heard],
        "gaps_s": [after - before for one in heard for before, after in itertools.pairwise(one.at)],
        "tokens": sum(len(one.at) for one in heard),
    }


def together(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several of what :func:`listen` returns, as figures."""
    tokens = sum(one["tokens"] for one in rounds)
    wall, cpu = sum(one["wall_s"] for one in rounds), sum(one["cpu_s"] for one in rounds)
    first = [moment for one in rounds for moment in one["first_s"]]
    gaps = [gap for one in rounds for gap in one["gaps_s"]]
    return {
        "tokens_per_s": round(tokens / wall, 2),
        "tokens_per_cpu_s": round(tokens / cpu, 2),
        "requests": len(first),
        "tokens": tokens,
        "wall_s": round(wall, 2),
        "ttft_ms_p50": milliseconds(first, 0.5),
        "ttft_ms_p99": milliseconds(first, 0.99),
        "inter_token_ms_p50": milliseconds(gaps, 0.5),
        "inter_token_ms_p99": milliseconds(gaps, 0.99),
    }


def milliseconds(seconds: Sequence[float], part: float) -> float:
    """A quantile, in milliseconds."""
    ordered = sorted(seconds)
    return round(1000 * ordered[min(int(part * len(ordered)), len(ordered) - 1)], 1)

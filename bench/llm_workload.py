"""What every contender of `bench.llm` is asked, and how its answers are timed.

A number of callers ask one question after another, each about a picture of its own (a page of words, as the gateway
writes it), and each wants an answer of a given length: greedy, not ended by the model, so that all do the same work.
Lengths of pages and answers are spread evenly and shuffled: few questions are as long on average as many.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from llm_server.prompting import alike
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
#: Objects on a page, about 28 tokens each; and tokens of an answer.
OBJECTS: Final = (8, 20)
ANSWERS: Final = (16, 48)
START_WITHIN_S = 0.5


@dataclass(frozen=True)
class Ask:
    """One request: token ids, how many are wanted back, how many of the first another question would have too."""

    prompt: tuple[int, ...]
    answer: int
    shared: int = 0


@dataclass
class Heard:
    """When its tokens came, seconds since it was asked; and which they were."""

    tokens: list[int] = field(default_factory=list)
    at: list[float] = field(default_factory=list)


Answerer = Callable[[Ask], Heard]


def picture(seed: str, objects: int) -> str:
    """What the experts saw in a made-up picture, another one for each seed: about 28 tokens an object."""
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


def prompt(tokenizer: Any, seed: str, question: str, objects: int = OBJECTS[1]) -> tuple[int, ...]:
    """Ids of the conversation, template included, as the server would make them."""
    seen = picture(seed, objects)
    text = chatml.render([chatml.Turn("user", chatml.first_user_text(seen, question))])
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def ask(tokenizer: Any, seed: str, question: str, answer: int, objects: int = OBJECTS[1]) -> Ask:
    """A question about a picture, as the server would hand it to the engine."""
    ids, others = (prompt(tokenizer, seed, one, objects) for one in (question, "\n"))
    return Ask(ids, answer, alike(ids, others))


def asks(tokenizer: Any, count: int, seed: str) -> list[Ask]:
    """``count`` requests, none of which shares a picture with any other of any seed."""
    draw = random.Random(seed)
    objects, answers = spread(OBJECTS, count, draw), spread(ANSWERS, count, draw)
    return [
        ask(tokenizer, f"{seed}, question {number}", draw.choice(QUESTIONS), answer, seen)
        for number, (seen, answer) in enumerate(zip(objects, answers, strict=True))
    ]


def spread(bounds: tuple[int, int], count: int, draw: random.Random) -> list[int]:
    """``count`` whole numbers at even distances over ``bounds``, in random order; their mean hardly depends on it."""
    least, most = bounds
    values = [round(least + (most - least) * (number + 0.5) / count) for number in range(count)]
    draw.shuffle(values)
    return values


def listen(answerer: Answerer, questions: Sequence[Ask], callers: int) -> dict[str, Any]:
    """Let so many callers ask, each from a random moment on the next question nobody has asked, and say how it went.

    Wall time is from the first question to the last answer; ``cpu_s`` is this process's own in that time. Raises what
    ``answerer`` raised first.
    """
    left = iter(questions)
    heard: list[Heard] = []
    failures: list[BaseException] = []
    lock = threading.Lock()
    draw = random.Random(callers)
    starts = [0.0] + [draw.uniform(0, START_WITHIN_S) for _ in range(callers - 1)]

    def ask_on(wait_s: float) -> None:
        time.sleep(wait_s)
        try:
            while not failures:
                with lock:
                    question = next(left, None)
                if question is None:
                    return
                answer = answerer(question)
                with lock:
                    heard.append(answer)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask_on, args=(start,)) for start in starts]
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
        "prompt_tokens": sum(len(one.prompt) for one in questions),
        "resident_mb": resident_mb(),
    }


def resident_mb() -> int:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


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
        "prompt_tokens": sum(one["prompt_tokens"] for one in rounds),
        "tokens": tokens,
        "wall_s": round(wall, 2),
        "ttft_ms_p50": milliseconds(first, 0.5),
        "ttft_ms_p99": milliseconds(first, 0.99),
        "inter_token_ms_p50": milliseconds(gaps, 0.5),
        "inter_token_ms_p99": milliseconds(gaps, 0.99),
        "resident_mb": max(one["resident_mb"] for one in rounds),
    }


def milliseconds(seconds: Sequence[float], part: float) -> float:
    """A quantile, in milliseconds."""
    ordered = sorted(seconds)
    return round(1000 * ordered[min(int(part * len(ordered)), len(ordered) - 1)], 1)

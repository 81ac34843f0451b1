"""Reads instruction data about pictures: the JSON of LLaVA-Instruct, of the LLaVA-1.5 mix and of ShareGPT4V.

    [{"id": ..., "image": "coco/000000033471.jpg",
      "conversations": [{"from": "human", "value": "<image>\\nWhat ...?"}, {"from": "gpt", "value": "..."}, ...]}, ...]

Records that are malformed, or that this training has no use for, are passed over and counted by reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llm_server.prompts.chatml import END, START

_PLACEHOLDER: Final = "<image>"
_CONTROL: Final = (START, END, "<|endoftext|>")


class ConversationsError(ValueError):
    """The file is not a list of conversations."""


@dataclass(frozen=True)
class Conversation:
    """What was asked and answered about one picture, in order: (question, answer) turns; at least one."""

    id: str
    image: str
    turns: tuple[tuple[str, str], ...]


def read_conversations(path: Path, *, skipped: Counter[str]) -> Iterator[Conversation]:
    """The conversations of a `.json` list or of a `.jsonl` file, in order.

    Args:
        path: the file.
        skipped: counts what is passed over, by reason, while conversations are drawn.

    Raises:
        ConversationsError: it is not such a file.
        OSError: it cannot be read.
    """
    for record in _records(path, skipped):
        found = conversation(record)
        if isinstance(found, str):
            skipped[found] += 1
        else:
            yield found


def conversation(record: Any) -> Conversation | str:
    """The conversation of a record, or why there is none."""
    if not isinstance(record, dict) or not isinstance(record.get("conversations"), list):
        return "malformed record"
    image = record.get("image")
    if image is None:
        return "no picture"
    if not isinstance(image, str) or not image.strip():
        return "malformed picture name"
    said = record["conversations"]
    if not said or len(said) % 2:
        return "turns that do not alternate"
    texts: list[str] = []
    for number, turn in enumerate(said):
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            return "malformed turn"
        if turn.get("from") != ("human", "gpt")[number % 2]:
            return "turns that do not alternate"
        text = turn["value"].replace(_PLACEHOLDER, "").strip() if number % 2 == 0 else turn["value"].strip()
        if not text:
            return "empty turn"
        if _PLACEHOLDER in text or any(token in text for token in _CONTROL):
            return "control token in a turn"
        texts.append(text)
    if sum(turn["value"].count(_PLACEHOLDER) for turn in said[::2]) > 1:
        return "several pictures"
    turns = tuple(zip(texts[::2], texts[1::2], strict=True))
    return Conversation(str(record.get("id", "")), image, turns)


def _records(path: Path, skipped: Counter[str]) -> Iterator[Any]:
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            for line in file:
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError:
                    skipped["malformed line"] += 1
                    continue
                yield record
        return
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConversationsError(f"{path} is no JSON: {error}") from error
    if not isinstance(told, list):
        raise ConversationsError(f"{path} is not a list of conversations")
    yield from told

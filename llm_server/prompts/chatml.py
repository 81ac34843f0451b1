"""ChatML, the form that SmolLM2 was tuned on: turns -> text. Training, evaluation and serving all use this.

Pure: no torch, no tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

START: Final = "<|im_start|>"
END: Final = "<|im_end|>"

#: The system line that the adapters were trained with.
SYSTEM: Final = "You answer questions about a picture from what is seen in it."


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    text: str


def first_user_text(verbalization: str, question: str) -> str:
    """The first user turn: what was seen, one space, the question."""
    return f"{verbalization} {question}" if verbalization else question


def render(turns: Sequence[Turn], *, system: str = SYSTEM) -> str:
    """The conversation as text, ending where the assistant's next answer begins."""
    head = f"{START}system\n{system}{END}\n"
    body = "".join(f"{START}{turn.role}\n{turn.text}{END}\n" for turn in turns)
    return f"{head}{body}{START}assistant\n"

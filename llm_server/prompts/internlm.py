"""The prompt text of CoLLaVO-7B and MoAI-7B (InternLM2), letter for letter, and what is cut from their output.

    AI assistant should give ... an image. <image> USER: {question} ASSISTANT:
    AI assistant should give ... an image. <image> [UNUSED_TOKEN_146]user
    {question}[UNUSED_TOKEN_145]
    [UNUSED_TOKEN_146]assistant

The first is the demo template, the second the evaluation template. Turns begin with a space, because the system line
does not end in one. A question of CoLLaVO begins with its crayon sentence. BOS (`<s>`) is the tokenizer's.
Pure: no torch, no tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from llm_server.prompts.chatml import Turn

Template: TypeAlias = Literal["demo", "eval"]

IMAGE: Final = "<image>"
"""Stands where the image tokens go; exactly one in a prompt."""
TURN_START: Final = "[UNUSED_TOKEN_146]"
TURN_END: Final = "[UNUSED_TOKEN_145]"
SYSTEM: Final = (
    "AI assistant should give helpful and detailed answers to user after fully understanding an image. "
    + IMAGE
)


def turn(question: str, template: Template) -> str:
    """A user's turn up to where the answer begins."""
    if template == "demo":
        return f" USER: {question} ASSISTANT:"
    return f" {TURN_START}user\n{question}{TURN_END}\n{TURN_START}assistant\n"


def conversation(turns: Sequence[Turn], template: Template) -> str:
    """The prompt of a conversation; the last turn is the user's. The published systems know one turn only.

    Answers stand where the model would have written them: up to its turn end in the evaluation template, after a
    space in that of the demo.

    Raises:
        ValueError: the last turn is not the user's, or two of the same follow one another.
    """
    if len(turns) % 2 == 0 or any(
        one.role != ("assistant" if index % 2 else "user") for index, one in enumerate(turns)
    ):
        raise ValueError("user and assistant take turns, and the user has the last")
    text = SYSTEM
    for one in turns:
        if one.role == "user":
            # Only the first turn needs the space: it follows the system line.
            asked = turn(one.text, template)
            text += asked if template == "demo" or text == SYSTEM else asked[1:]
        elif template == "demo":
            text += f" {one.text}"
        else:
            text += f"{one.text}{TURN_END}\n"
    return text


_CONTROL = re.compile(r"<(?=(?:image|s|/s|unk)>)|\[(?=UNUSED_TOKEN_[0-9]+\])")
_HARMLESS: Final = {"<": "\u2039", "[": "("}


def plain(text: str) -> str:
    """Text from outside that spells no control token any more: each loses its first character to a look-alike.

    A tokenizer that normalises text may still read one into other characters: count them after tokenisation as well.
    """
    return _CONTROL.sub(lambda match: _HARMLESS[match[0]], text)


def prompt(question: str, template: Template) -> str:
    """The whole prompt of a first question.

    `question` goes in as it is: what comes from outside must have been neutralised, or `<image>` and turn markers
    in it will count.
    """
    return SYSTEM + turn(question, template)


def trim(decoded: str, template: Template) -> str:
    """The answer in what was decoded (prompt and answer, control tokens skipped), as the published systems cut it.

    The demo cuts only the end, at the first `[U`: the prompt stays in front. The evaluation takes what follows the
    last `assistant` line, strips it, and cuts it at the first `[UN`.
    """
    if template == "demo":
        return decoded.split("[U", maxsplit=1)[0]
    return decoded.rsplit("assistant\n", maxsplit=1)[-1].strip().split("[UN")[0]

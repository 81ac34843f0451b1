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

from typing import Final, Literal, TypeAlias

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

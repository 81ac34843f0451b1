"""Prompt text and trimming beyond the golden cases."""

from __future__ import annotations

from llm_server.prompts.internlm import SYSTEM, prompt, trim, turn


def test_a_second_turn_follows_an_answer() -> None:
    assert prompt("a", "demo") == SYSTEM + turn("a", "demo")
    assert turn("b", "demo") == " USER: b ASSISTANT:"
    assert turn("b", "eval") == (
        " [UNUSED_TOKEN_146]user\nb[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n"
    )


def test_trimming_finds_the_answer_of_the_eval_prompt() -> None:
    assert trim(f"{prompt('q', 'eval')} a dog [UNUSED_TOKEN_145]\nmore", "eval") == "a dog "
    assert trim("a dog[UNUSED_TOKEN_145] tail", "demo") == "a dog"

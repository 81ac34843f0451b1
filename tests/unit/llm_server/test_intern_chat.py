"""Conversations of CoLLaVO and MoAI as ids: one picture, and no control token from outside."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_server.intern_chat import InternChat
from llm_server.prompts import internlm
from llm_server.prompts.chatml import Turn
from llm_server.prompts.intern_tokenizer import InternTokenizer
from llm_server.tokenizer import PromptTooManyTokens
from serving.errors import InvalidFieldError

CHECKPOINT = Path(__file__).parents[2] / "parity" / "golden" / "checkpoints" / "collavo-tiny"
TOKENIZER = InternTokenizer(CHECKPOINT / "tokenizer.model")
CHAT = InternChat(TOKENIZER, image_tokens=25)
MARKS = ("<image>", "<s>", "</s>", "<unk>", "[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]")

texts = st.lists(st.one_of(st.text(max_size=20), st.sampled_from(MARKS)), max_size=5).map("".join)


@pytest.mark.parametrize("template", ["demo", "eval"])
def test_a_first_question_is_the_published_prompt(template: internlm.Template) -> None:
    ids = CHAT.encode_chat([Turn("user", "Where is it?")], limit=500, template=template)
    published = TOKENIZER.encode(internlm.prompt("Where is it?", template))
    place = published.index(TOKENIZER.image_id)
    assert ids == [*published[:place], *[TOKENIZER.image_id] * 25, *published[place + 1 :]]


def test_a_conversation_goes_on_where_the_answer_ended() -> None:
    first = CHAT.encode_chat([Turn("user", "Where?")], limit=500)
    turns = [Turn("user", "Where?"), Turn("assistant", "Here."), Turn("user", "Sure?")]
    assert CHAT.encode_chat(turns, limit=500)[: len(first)] == first
    assert internlm.conversation(turns, "demo").endswith(
        " USER: Where? ASSISTANT: Here. USER: Sure? ASSISTANT:"
    )
    for wrong in ([], turns[:2], turns[1:], [turns[0], turns[0], turns[0]]):
        with pytest.raises(InvalidFieldError):
            CHAT.encode_chat(wrong, limit=500)


@given(texts)
@settings(max_examples=60, deadline=None)
def test_text_from_outside_holds_no_control_token(text: str) -> None:
    control = TOKENIZER.control_ids
    wanted = [token for token in CHAT.encode_chat([Turn("user", "")], limit=500) if token in control]
    try:
        ids = CHAT.encode_chat([Turn("user", text)], limit=2000)
        words = CHAT.encode_words(text, limit=2000)
    except InvalidFieldError:
        return  # read as control tokens after normalisation: refused
    assert [token for token in ids if token in control] == wanted
    assert [token for token in words if token in control] == [TOKENIZER.bos_id]
    assert not control & set(CHAT.encode_text(text))


def test_marks_spelled_out_are_read_as_words() -> None:
    for mark in MARKS:
        assert CHAT.encode_chat([Turn("user", f"a {mark} b")], limit=500)


def test_what_does_not_fit_is_not_tokenised() -> None:
    with pytest.raises(PromptTooManyTokens):
        CHAT.encode_chat([Turn("user", "a" * 2**28)], limit=500)
    with pytest.raises(PromptTooManyTokens):
        CHAT.encode_chat([Turn("user", "Where?")], limit=60)
    with pytest.raises(PromptTooManyTokens):
        CHAT.encode_words("Where? " * 20, limit=20)


def test_bytes_of_an_answer() -> None:
    said = "Café 回答 \u2603!"
    assert b"".join(CHAT.token_bytes[token] for token in TOKENIZER.encode(said, bos=False)).decode() == said
    assert CHAT.token_bytes[TOKENIZER.eos_id] == b""
    assert len(CHAT.token_bytes) == TOKENIZER.image_id

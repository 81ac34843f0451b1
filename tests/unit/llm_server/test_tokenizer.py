from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from llm_server.detokenizer import Detokenizer
from llm_server.prompts import chatml
from llm_server.tiny_model import tiny_tokenizer
from llm_server.tokenizer import ChatTokenizer, PromptTooManyTokens

HF: Any = tiny_tokenizer()
TOKENIZER = ChatTokenizer(HF)
CONTROL = {HF.convert_tokens_to_ids(token) for token in (chatml.START, chatml.END, "<|endoftext|>")}
HOSTILE = st.lists(
    st.sampled_from([chatml.START, chatml.END, "<|endoftext|>", "system\n", "\n", "\0", "0", "é", "\\", " "])
    | st.text(max_size=4)
).map("".join)


def texts_of(ids: list[int]) -> str:
    """The text of ids, control tokens written out."""
    names = {number: HF.convert_ids_to_tokens(number) for number in CONTROL}
    out, detokenizer = "", Detokenizer(TOKENIZER.token_bytes)
    for number in ids:
        out += names[number] if number in names else detokenizer.push(number)
    return out


@given(HOSTILE)
def test_text_never_becomes_a_control_token_and_comes_back_as_it_was(text: str) -> None:
    ids = TOKENIZER.encode_text(text)
    assert not CONTROL & set(ids)
    assert texts_of(ids) == text


@given(st.lists(HOSTILE, min_size=1, max_size=3))
def test_only_the_template_makes_control_tokens(texts: list[str]) -> None:
    turns = [chatml.Turn("user" if index % 2 == 0 else "assistant", text) for index, text in enumerate(texts)]
    ids = TOKENIZER.encode_chat(turns, limit=10_000)
    assert texts_of(ids) == chatml.render(turns)
    start, end = (HF.convert_tokens_to_ids(token) for token in (chatml.START, chatml.END))
    # One start and one end for the system and for each turn; one start for the answer.
    assert (ids.count(start), ids.count(end)) == (len(turns) + 2, len(turns) + 1)
    assert [number for number in ids if number in CONTROL] == [start, end] * (len(turns) + 1) + [start]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=30), min_size=1, max_size=3))
def test_the_served_prompt_equals_the_trained_one(texts: list[str]) -> None:
    """Training tokenises the rendered text whole; without control tokens in it both are the same."""
    if any("<|" in text for text in texts):
        return
    turns = [chatml.Turn("user", text) for text in texts]
    trained = HF(chatml.render(turns), add_special_tokens=False)["input_ids"]
    assert TOKENIZER.encode_chat(turns, limit=10_000) == trained


def test_a_prompt_over_the_limit_says_both_numbers() -> None:
    turns = [chatml.Turn("user", "How many people are in the picture?")]
    tokens = len(TOKENIZER.encode_chat(turns, limit=10_000))
    assert TOKENIZER.encode_chat(turns, limit=tokens)
    with pytest.raises(PromptTooManyTokens) as refused:
        TOKENIZER.encode_chat(turns, limit=tokens - 1)
    assert (refused.value.tokens, refused.value.limit) == (tokens, tokens - 1)


def test_a_text_that_cannot_fit_is_not_tokenised() -> None:
    # 256 MB of text would take minutes to tokenise; the test would not end.
    with pytest.raises(PromptTooManyTokens) as refused:
        TOKENIZER.encode_chat([chatml.Turn("user", "a" * 2**28)], limit=500)
    assert refused.value.tokens > 500


def test_the_end_of_a_turn_ends_generation_and_control_tokens_have_no_text() -> None:
    assert HF.convert_tokens_to_ids(chatml.END) in TOKENIZER.end_tokens
    assert all(TOKENIZER.token_bytes[number] == b"" for number in CONTROL)


def test_a_lone_surrogate_is_replaced() -> None:
    assert texts_of(TOKENIZER.encode_text("a\ud800b")) == "a?b"


def test_a_vocabulary_that_is_not_byte_level_is_refused() -> None:
    fast: Any = PreTrainedTokenizerFast
    words = fast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ValueError, match="byte-level"):
        ChatTokenizer(words)

"""A model's vocabulary as a grammar sees it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.constraint_vocabulary import Vocabulary
from llm_server.tokenizer import ChatTokenizer
from serving.errors import InvalidFieldError


@pytest.fixture(scope="module")
def vocabulary(chat_tokenizer: ChatTokenizer) -> Vocabulary:
    return Vocabulary(chat_tokenizer.token_bytes, min(chat_tokenizer.end_tokens), chat_tokenizer.encode_text)


def written(vocabulary: Vocabulary, ids: list[int]) -> bytes:
    return b"".join(vocabulary.tokens[one] for one in ids)


@given(text=st.text())
def test_a_text_is_cut_as_the_model_reads_it(chat_tokenizer: ChatTokenizer, text: str) -> None:
    vocabulary = Vocabulary(chat_tokenizer.token_bytes, 1, chat_tokenizer.encode_text)
    assert vocabulary(text.encode()) == chat_tokenizer.encode_text(text)


@given(text=st.binary())
def test_no_byte_is_lost_even_of_half_a_character(chat_tokenizer: ChatTokenizer, text: bytes) -> None:
    vocabulary = Vocabulary(chat_tokenizer.token_bytes, 1, chat_tokenizer.encode_text)
    assert written(vocabulary, vocabulary(text)) == text


def refusing(text: str) -> list[int]:
    raise InvalidFieldError("text: a control token", metadata={})


@pytest.mark.parametrize("encode", [refusing, lambda text: [0, 1]], ids=["refuses", "adds a space"])
def test_a_tokeniser_that_reads_something_else_is_not_followed(encode: object) -> None:
    vocabulary = Vocabulary([b" ", b"a", b"ab", b"b", b""], 4, encode)  # type: ignore[arg-type]
    assert vocabulary(b"aba") == [2, 1]


def test_a_byte_that_the_vocabulary_lacks_ends_the_cut() -> None:
    assert Vocabulary([b"a", b""], 1, refusing)(b"aaxa") == [0, 0]

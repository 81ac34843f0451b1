"""The tokenizer of the published models, with either setting of the dummy prefix."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece as spm
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_server.prompts.intern_tokenizer import InternTokenizer

MARKER = "[UNUSED_TOKEN_146]"


@pytest.fixture(scope="module", params=[False, True], ids=["no prefix", "dummy prefix"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> InternTokenizer:
    """A byte-pair model trained on a few sentences."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text").write_text("a cat is on the mat\nthe dog and the cat\n" * 20, encoding="utf-8")
    spm.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        add_dummy_prefix=request.param,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=[MARKER],
        minloglevel=2,
    )
    return InternTokenizer(folder / "tokenizer.model")


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(
        alphabet=st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="▁<"), max_size=30
    )
)
def test_text_comes_back(tokenizer: InternTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos_id
    assert ids[1:] == tokenizer.encode(text, bos=False)
    spaced = any(mark in text for mark in (" .", " ?", " !", " ,", " '", " n't"))
    if not spaced:
        assert tokenizer.decode(ids) == text


def test_control_tokens_split_the_text(tokenizer: InternTokenizer) -> None:
    cat, dog = tokenizer.encode("cat", bos=False), tokenizer.encode("dog", bos=False)
    assert tokenizer.encode("cat<image>dog</s>") == [
        *(tokenizer.bos_id, *cat, tokenizer.image_id),
        *(*dog, tokenizer.eos_id),
    ]


def test_the_image_is_behind_the_last_piece_and_the_marker_is_a_piece(tokenizer: InternTokenizer) -> None:
    (marker,) = tokenizer.encode(MARKER, bos=False)[-1:]
    assert 0 < marker < tokenizer.image_id == 300


def test_decoding_with_and_without_control_tokens(tokenizer: InternTokenizer) -> None:
    ids = tokenizer.encode("a cat<image></s></s>the dog")
    assert tokenizer.decode(ids, skip_control=False) == " <s>a cat <image>  </s></s>the dog"
    assert tokenizer.decode(ids) in {"a catthe dog", "a cat the dog"}


def test_punctuation_draws_near(tokenizer: InternTokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a cat . is n't it ' s , ok ?")) == "a cat. isn't it's, ok?"


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        InternTokenizer(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(RuntimeError):
        InternTokenizer(tmp_path / "tokenizer.model")

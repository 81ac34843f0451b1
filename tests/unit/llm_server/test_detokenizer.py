from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm_server.detokenizer import Detokenizer, byte_level_alphabet

BYTES = tuple(bytes([byte]) for byte in range(256))


@given(st.text())
def test_text_cut_into_bytes_comes_out_whole(text: str) -> None:
    detokenizer = Detokenizer(BYTES)
    pieces = [detokenizer.push(byte) for byte in text.encode("utf-8", "replace")]
    assert "".join(pieces) + detokenizer.flush() == text.encode("utf-8", "replace").decode()
    assert all(len(piece) <= 1 for piece in pieces)


@given(st.lists(st.integers(0, 255)))
def test_any_bytes_give_valid_text_equal_to_decoding_them_at_once(tokens: list[int]) -> None:
    detokenizer = Detokenizer(BYTES)
    text = "".join([*(detokenizer.push(token) for token in tokens), detokenizer.flush()])
    assert text == bytes(tokens).decode("utf-8", "replace")


def test_a_character_is_held_until_complete() -> None:
    detokenizer = Detokenizer(BYTES)
    assert [detokenizer.push(byte) for byte in "é🙂".encode()] == ["", "é", "", "", "", "🙂"]


def test_a_broken_character_at_the_end_is_marked() -> None:
    detokenizer = Detokenizer(BYTES)
    assert [detokenizer.push(byte) for byte in "🙂".encode()[:3]] == ["", "", ""]
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""


def test_the_alphabet_is_one_character_for_each_byte() -> None:
    alphabet = byte_level_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert alphabet["Ġ"] == ord(" ")
    assert alphabet["Ċ"] == ord("\n")

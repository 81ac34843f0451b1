"""A request id is short, printable, and nobody's way to write into a log."""

from __future__ import annotations

import contextvars

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.request_id import accept_request_id, current_request_id, new_request_id, set_request_id


@pytest.mark.parametrize("good", ["a", "order-66", "1f/2:3.4_5+6=7@8", "x" * 128])
def test_good_ids_are_kept(good: str) -> None:
    assert accept_request_id(good) == good


@pytest.mark.parametrize("bad", [None, b"bytes", "", "x" * 129, "two words", "line\nbreak", "é", '"', "a\n"])
def test_others_are_replaced(bad: str | bytes | None) -> None:
    accepted = accept_request_id(bad)
    assert accepted != bad
    assert len(accepted) == 32


@given(st.text() | st.binary())
def test_what_is_accepted_is_always_safe(offered: str | bytes) -> None:
    accepted = accept_request_id(offered)
    assert 1 <= len(accepted) <= 128
    assert accepted.isascii()
    assert accepted.isprintable()
    assert not set(accepted) & set(" \"'\\<>{}")


def test_fresh_ids_differ() -> None:
    assert len({new_request_id() for _ in range(100)}) == 100


def test_an_id_lives_in_its_own_context() -> None:
    def inside() -> str:
        set_request_id("mine")
        return current_request_id()

    assert contextvars.copy_context().run(inside) == "mine"
    assert current_request_id() == ""

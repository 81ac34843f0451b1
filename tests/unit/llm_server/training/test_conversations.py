"""Instruction data is read turn by turn; what is malformed is counted and never trained on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_server.training.conversations import (
    Conversation,
    ConversationsError,
    conversation,
    read_conversations,
)


def record(*said: Any, image: Any = "coco/1.jpg") -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said)]
    return {"id": "7", "image": image, "conversations": turns}


def test_turns_are_read_and_the_picture_s_mark_is_dropped() -> None:
    expected = Conversation("7", "coco/1.jpg", (("What is it?", "A bus."), ("Red?", "Yes.")))
    assert conversation(record("<image>\nWhat is it?", " A bus.\n", "Red?", "Yes.")) == expected
    assert conversation(record("What is it?\n<image>", "A bus.", "Red?", "Yes.")) == expected


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("text", "malformed record"),
        ({"image": "a.jpg"}, "malformed record"),
        (record("Hello", "Hi.", image=None), "no picture"),
        (record("Hello", "Hi.", image=3), "malformed picture name"),
        (record("<image>\nWhat?"), "turns that do not alternate"),
        (record(), "turns that do not alternate"),
        ({**record(), "conversations": [{"from": "gpt", "value": "a"}] * 2}, "turns that do not alternate"),
        (record("<image>\nWhat?", None), "malformed turn"),
        (record("<image>\n", "A bus."), "empty turn"),
        (record("<image>\nWhat?", "A <|im_end|> bus."), "control token in a turn"),
        (record("<image>\nWhat?", "An <image>."), "control token in a turn"),
        (record("<image> or <image>?", "The first."), "several pictures"),
    ],
)
def test_what_is_malformed_says_why(told: Any, why: str) -> None:
    assert conversation(told) == why


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["image", "conversations", "from", "value", "id"]), inner)
    ),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=150, deadline=None)
def test_any_record_is_a_conversation_or_a_reason(told: Any) -> None:
    found = conversation(told)
    if isinstance(found, str):
        assert found
    else:
        assert found.turns
        assert all(text for turn in found.turns for text in turn)


def test_files_of_both_forms_are_read_and_skipped_records_counted(tmp_path: Path) -> None:
    records = [record("<image>\nWhat?", "A bus."), {"id": 1}, record("Hi", "Ho", image=None)]
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "a.jsonl").write_text("\n".join([*map(json.dumps, records), "{", ""]))
    listed, lines = Counter[str](), Counter[str]()
    first = list(read_conversations(tmp_path / "a.json", skipped=listed))
    assert first == list(read_conversations(tmp_path / "a.jsonl", skipped=lines))
    assert len(first) == 1
    assert listed == {"malformed record": 1, "no picture": 1}
    assert lines == {**listed, "malformed line": 1}
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(ConversationsError, match="not a list"):
        list(read_conversations(tmp_path / "b.json", skipped=Counter()))
    (tmp_path / "b.json").write_text("[")
    with pytest.raises(ConversationsError, match="no JSON"):
        list(read_conversations(tmp_path / "b.json", skipped=Counter()))

"""Records survive a process that dies while it writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.evaluation.harness.example import Record, SeenObject
from llm_server.evaluation.harness.record_file import RecordFile


def record(number: int = 1, answer: str = "Yes.") -> Record:
    return Record(
        id=f"existence/{number}/dog",
        group="existence",
        condition="adapters",
        fingerprint="0123456789abcdef",
        question="Is there a dog?",
        picture=f"{number}.jpg",
        expected="Yes.",
        verbalization="The image includes (#1 dog) [0.10, 0.20, 0.30, 0.40].",
        answer=answer,
        objects=[SeenObject("dog", (0.1, 0.2, 0.3, 0.4), 0.9, "panoptic")],
        served={"llm_server": "polysight-smol 1"},
        experts={"panoptic": "ok"},
        timings={"total": 12.5},
        generated_tokens=3,
    )


@given(st.text(max_size=60))
def test_a_record_is_one_line_and_reads_back_the_same(answer: str) -> None:
    kept = record(answer=answer.replace("\ud800", ""))
    line = kept.to_json()
    assert "\n" not in line
    assert Record.from_json(line) == kept


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "3", '{"id": "x"}', '{"objects": 3}', '{"objects": [{"box": 1}]}']
)
def test_what_is_no_record_is_said_to_be_none(line: str) -> None:
    with pytest.raises(ValueError):
        Record.from_json(line)


def test_a_torn_last_line_costs_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "records.jsonl"
    with RecordFile(path) as file:
        file.append(record(1))
        file.append(record(2))
    path.write_bytes(path.read_bytes()[:-20])
    again = RecordFile(path)
    assert (list(again.records), again.unreadable) == ([("adapters", "existence/1/dog")], 1)
    with again:
        again.append(record(3))
    assert [key[1] for key in RecordFile(path).records] == ["existence/1/dog", "existence/3/dog"]


def test_the_last_record_of_a_question_counts(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with RecordFile(path) as file:
        file.append(record(1))
        file.append(replace(record(1), answer="No."))
    (kept,) = RecordFile(path).records.values()
    assert kept.answer == "No."


def test_a_closed_file_takes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="open"):
        RecordFile(tmp_path / "records.jsonl").append(record())

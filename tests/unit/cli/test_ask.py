"""`polysight ask --schema|--regex`: the form of the answer reaches the request, and what cannot be read is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli.ask import answer_request, ask, read_constraint
from polysight.llm.v1 import generation_pb2

SCHEMA = '{"type": "object", "properties": {"name": {"enum": ["Käse", "bus"]}}}'


def run(*args: Any) -> Any:
    app = typer.Typer()
    app.command()(ask)
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_without_a_form_the_request_has_none() -> None:
    assert read_constraint(None, None) is None
    assert not answer_request(b"x", "What?").HasField("constraint")


def test_a_schema_is_sent_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(SCHEMA, encoding="utf-8")
    request = answer_request(b"x", "What?", constraint=read_constraint(tmp_path / "schema.json", None))
    assert request.constraint == generation_pb2.OutputConstraint(json_schema=SCHEMA)


def test_a_regular_expression_is_sent_as_it_was_written() -> None:
    request = answer_request(b"x", "How many?", constraint=read_constraint(None, r"[0-9]{1,2}"))
    assert request.constraint == generation_pb2.OutputConstraint(regex=r"[0-9]{1,2}")


@pytest.mark.parametrize(
    ("options", "content", "complaint"),
    [
        (("--schema", "FILE", "--regex", "a"), b"{}", "either --schema or --regex"),
        (("--schema", "FILE"), None, f"cannot read FILE: {os.strerror(2)}"),
        (("--schema", "FILE"), b'{"type": ', "FILE is not JSON"),
        (("--schema", "FILE"), b'"\xff"', "FILE is not JSON"),
        (("--regex", ""), None, "the regular expression is empty"),
    ],
)
def test_a_form_that_cannot_be_meant_is_refused_before_anything_is_sent(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    content: bytes | None,
    complaint: str,
) -> None:
    """Nothing listens at the address: a request that were sent would end otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    if content is not None:
        Path("FILE").write_bytes(content)
    done = run("picture.jpg", "What?", *options, "--gateway", "127.0.0.1:1")
    assert done.exit_code == 2
    assert complaint in " ".join(done.output.split())

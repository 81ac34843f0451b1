"""How deep a schema may go."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.constraint import ConstraintRefused
from llm_server.constraint_schema import DEEPEST, check_schema


def chain(definitions: int, **extra: Any) -> str:
    """Definitions that each refer to the next from two levels down."""
    steps = {
        f"a{n}": {"type": "object", "properties": {"x": {"$ref": f"#/$defs/a{n + 1}"}}}
        for n in range(definitions)
    }
    return json.dumps({"$defs": {**steps, f"a{definitions}": extra or {}}, "$ref": "#/$defs/a0"})


def test_what_people_write_passes() -> None:
    assert check_schema('{"type": "object", "properties": {"a": {"type": "string"}}}') == {
        "type": "object",
        "properties": {"a": {"type": "string"}},
    }
    assert check_schema(chain(40))
    assert check_schema("true") is True


def test_a_definition_that_refers_to_itself_is_counted_once() -> None:
    tree = {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}}
    assert check_schema(json.dumps(tree)) == tree


@pytest.mark.parametrize("text", ["", "{", "[1]", '"a"', "3", "nul", "[" * 60000])
def test_what_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(ConstraintRefused):
        check_schema(text)


def test_a_long_chain_of_references_is_refused() -> None:
    with pytest.raises(ConstraintRefused, match=str(DEEPEST)):
        check_schema(chain(200))


@pytest.mark.parametrize(
    "way", ["#/$defs/%61{}", "other.json#/{}", "#a{}"], ids=["escaped", "elsewhere", "anchor"]
)
def test_a_roundabout_reference_counts_as_no_less(way: str) -> None:
    steps = {
        f"a{n}": {"items": {"items": {"items": {"items": {"$ref": way.format(n + 1)}}}}} for n in range(200)
    }
    with pytest.raises(ConstraintRefused):
        check_schema(json.dumps({"$defs": steps, "$ref": "#/$defs/a0"}))


def test_identifiers_inside_do_not_hide_depth() -> None:
    inner = json.loads(chain(100))
    shallow = {"$defs": {f"a{n}": {} for n in range(101)}, "properties": {"x": {"$id": "x", **inner}}}
    with pytest.raises(ConstraintRefused):
        check_schema(json.dumps(shallow))


@given(st.integers(1, 90), st.integers(0, 30))
def test_no_path_is_longer_than_what_passes(nested: int, definitions: int) -> None:
    """The longest path of this family is known: each definition's nesting, one after the other."""
    target: Any = {}
    steps: dict[str, Any] = {}
    for number in range(definitions):
        target = {"$ref": f"#/$defs/a{number - 1}"} if number else {}
        for _ in range(nested):
            target = {"items": target}
        steps[f"a{number}"] = target
    schema = {"$defs": steps, "$ref": f"#/$defs/a{definitions - 1}"} if definitions else {}
    if nested * definitions > DEEPEST:
        with pytest.raises(ConstraintRefused):
            check_schema(json.dumps(schema))
    elif (nested + 2) * (definitions + 2) < DEEPEST:
        assert check_schema(json.dumps(schema)) == schema

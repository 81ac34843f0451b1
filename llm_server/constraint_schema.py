"""How deep a JSON schema goes, before anything recursive is done with it.

A grammar compiler follows references as deep as they lead, on the stack: a chain of a thousand definitions in fifty
kilobytes overruns it and takes the process along. What is counted here is an upper bound for every path through the
schema: the nesting of the whole, plus that of each definition that something refers to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from llm_server.constraint import ConstraintRefused

#: Levels. Pydantic's schemas of large models have some dozens; overruns begin near two thousand with a stack of 8 MiB.
DEEPEST = 400


def check_schema(text: str) -> dict[str, Any] | bool:
    """The schema that ``text`` is. Raises :class:`ConstraintRefused` if it is none, or goes too deep."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConstraintRefused(f"not JSON: {error}") from error
    if not isinstance(schema, dict | bool):
        raise ConstraintRefused("a schema is an object, or true or false")
    references: set[str] = set()
    whole = _depth(schema, references)
    # With identifiers inside, references need not start at the root: each may lead to the deepest there is.
    rebased = _rebased(schema)
    levels = whole
    for reference in references:
        levels += whole if rebased else _depth(_target(schema, reference), set())
    if levels > DEEPEST:
        raise ConstraintRefused(f"nesting and references go more than {DEEPEST} levels deep")
    return schema


def _depth(value: Any, references: set[str]) -> int:
    """Levels of ``value``, without a stack; the references in it are added to ``references``."""
    deepest = 0
    for inner, level in _walk(value):
        deepest = max(deepest, level)
        if isinstance(inner, dict) and isinstance(inner.get("$ref"), str):
            references.add(inner["$ref"])
    return deepest


def _rebased(schema: Any) -> bool:
    """Whether a part of ``schema`` has an identifier of its own."""
    return any(
        level > 1
        and isinstance(inner, dict)
        and any(isinstance(inner.get(key), str) for key in ("$id", "id"))
        for inner, level in _walk(schema)
    )


def _walk(value: Any) -> Iterator[tuple[Any, int]]:
    """Everything in ``value`` with its level, itself at 1; no recursion."""
    left = [(value, 1)]
    while left:
        inner, level = left.pop()
        yield inner, level
        if isinstance(inner, dict):
            left += [(child, level + 1) for child in inner.values()]
        elif isinstance(inner, list):
            left += [(child, level + 1) for child in inner]


def _target(schema: Any, reference: str) -> Any:
    """What ``reference`` points at; the whole schema, which is more than it can be, for what is no plain pointer."""
    found = schema
    if not reference.startswith("#/"):
        return schema
    for escaped in unquote(reference[2:]).split("/"):
        part = escaped.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return schema
    return found

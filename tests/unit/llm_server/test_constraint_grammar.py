"""Compiled constraints, token by token."""

from __future__ import annotations

import contextlib
import json
import time

import numpy as np
import pytest

from llm_server.constraint import CompiledConstraint, Constraint, ConstraintRefused
from llm_server.constraint_grammar import ConstraintCompiler, Form
from llm_server.faults import ConstraintFault
from llm_server.tokenizer import ChatTokenizer

END = 2
WIDTH = 320  # more than the tokenizer knows: the rest is padding


@pytest.fixture(scope="module")
def compiler(chat_tokenizer: ChatTokenizer) -> ConstraintCompiler:
    return ConstraintCompiler(
        chat_tokenizer.token_bytes, chat_tokenizer.end_tokens, chat_tokenizer.encode_text
    )


def follows(constraint: Constraint) -> set[int]:
    return {int(one) for one in np.flatnonzero(np.isfinite(constraint.mask(np.zeros(WIDTH, np.float32))))}


def accepts(compiled: CompiledConstraint, chat: ChatTokenizer, text: str) -> bool:
    """Whether ``text``, tokenised byte by byte, may be written and may end there."""
    held = compiled.start({END})
    complete = False
    for byte in text.encode():
        token = chat.token_bytes.index(bytes([byte]))
        if complete or token not in follows(held):
            return False
        complete = held.advance(token)
    return complete or END in follows(held)


@pytest.mark.parametrize(
    ("form", "what", "yes", "no"),
    [
        ("regex", "a|ab+", ["a", "ab", "abbb"], ["", "b", "aa"]),
        ("regex", r"\d{2}/é[^x]", ["12/éa", "12/é✓"], ["1/éa", "12/ex", "12/éx"]),
        ("regex", "x?", ["", "x"], ["xx", " "]),
        ("regex", "<[|]im_end[|]>", ["<|im_end|>"], ["<|im_end|"]),
        ("json_schema", '{"enum": ["cat", 3, null]}', ['"cat"', "3", "null"], ['"dog"', "", ' "cat"']),
        (
            "json_schema",
            '{"type": "array", "items": {"type": "boolean"}, "maxItems": 2}',
            ["[]", "[true]", "[true, false]", "[\n  true,\n  false\n]"],
            ["[1]", "[true,  false]", "[true, true, true]", "true"],
        ),
        (
            "json_schema",
            '{"x-guidance": {"whitespace_pattern": ".*", "lenient": true}, "type": "array", "maxItems": 0}',
            ["[]", "[ ]"],
            ["[   ]", "[ab]"],
        ),
        ("json_schema", "true", ["1", "[{}]"], ["", "a"]),
    ],
)
def test_an_answer_has_the_form(
    compiler: ConstraintCompiler,
    chat_tokenizer: ChatTokenizer,
    form: Form,
    what: str,
    yes: list[str],
    no: list[str],
) -> None:
    compiled = compiler.compile(form, what)
    assert [text for text in yes if not accepts(compiled, chat_tokenizer, text)] == []
    assert [text for text in no if accepts(compiled, chat_tokenizer, text)] == []


@pytest.mark.parametrize(
    ("form", "what", "why"),
    [
        ("regex", "(", "unclosed group"),
        ("regex", "(?=a)b", "look"),
        ("regex", r"(a)\1", "backreferences"),
        ("regex", "[^\\s\\S]", "."),
        ("regex", "(" * 4000 + "a" + ")" * 4000, "nest"),
        ("regex", "é" * 4097, "8192 bytes"),
        ("json_schema", '{"title": "' + "x" * 65536 + '"}', "65536 bytes"),
        ("json_schema", "nonsense", "not JSON"),
        ("json_schema", '{"type": "frob"}', "frob"),
        ("json_schema", '{"not": {"type": "string"}}', "not"),
        ("json_schema", '{"$ref": "https://example.com/schema"}', "example.com"),
        ("json_schema", '{"type": "string", "pattern": "("}', "."),
        ("json_schema", "false", "no answer"),
        ("json_schema", '{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}', "."),
        ("json_schema", '{"items":' * 200 + "{}" + "}" * 200, "."),
    ],
)
def test_what_cannot_be_compiled_is_refused_with_the_reason(
    compiler: ConstraintCompiler, form: Form, what: str, why: str
) -> None:
    with pytest.raises(ConstraintRefused, match=why) as refused:
        compiler.compile(form, what)
    assert 0 < len(str(refused.value)) < 1000
    assert "<state>" not in str(refused.value)


@pytest.mark.parametrize(
    ("form", "what"),
    [
        ("regex", "(((a{1,30}){1,30}){1,30}){1,30}"),
        ("regex", "(.*a){30}b"),
        ("regex", "a?" * 4000),
        ("json_schema", json.dumps({"type": "object", "properties": {f"k{n}": {} for n in range(1500)}})),
        ("json_schema", json.dumps({"enum": [f"v{n}" for n in range(5000)]})),
        ("json_schema", json.dumps({"type": "array", "minItems": 100000, "items": {"type": "integer"}})),
        (
            "json_schema",
            json.dumps(
                {"allOf": [{"anyOf": [{"properties": {f"{n}{m}": {}}} for m in "abc"]} for n in range(200)]}
            ),
        ),
    ],
    ids=lambda what: str(what)[:24],
)
def test_what_is_hard_is_compiled_or_refused_in_bounded_time(
    compiler: ConstraintCompiler, form: Form, what: str
) -> None:
    began = time.process_time()
    with contextlib.suppress(ConstraintRefused, ConstraintFault):
        follows(compiler.compile(form, what).start({END}))
    assert time.process_time() - began < 5


def test_the_same_form_is_compiled_once_and_started_anew(
    compiler: ConstraintCompiler, chat_tokenizer: ChatTokenizer
) -> None:
    compiled = compiler.compile("regex", "abc")
    held = compiled.start({END})
    held.advance(chat_tokenizer.token_bytes.index(b"a"))
    assert compiler.compile("regex", "abc") is compiled
    assert follows(compiled.start({END})) != follows(held)


def test_forms_beyond_those_remembered_are_forgotten(chat_tokenizer: ChatTokenizer) -> None:
    small = ConstraintCompiler(
        chat_tokenizer.token_bytes, chat_tokenizer.end_tokens, chat_tokenizer.encode_text, remembered=1
    )
    first = small.compile("regex", "a")
    second = small.compile("regex", "b")
    assert small.compile("regex", "b") is second
    assert small.compile("regex", "a") is not first


def test_a_token_that_breaks_the_form_is_a_fault(
    compiler: ConstraintCompiler, chat_tokenizer: ChatTokenizer
) -> None:
    with pytest.raises(ConstraintFault):
        compiler.compile("regex", "abc").start({END}).advance(chat_tokenizer.token_bytes.index(b"x"))


def test_only_the_callers_end_tokens_end_and_padding_is_never_allowed(compiler: ConstraintCompiler) -> None:
    assert follows(compiler.compile("regex", "(x)?").start({1})) >= {1}
    assert follows(compiler.compile("regex", "(x)?").start({5})) & {1, 2, 5} == {5}
    assert max(follows(compiler.compile("regex", "(?s:.*)").start({2}))) < 316

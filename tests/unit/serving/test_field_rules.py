"""The quick screen agrees with protovalidate, on every request of the contract and whatever is in it."""

from __future__ import annotations

import time
from typing import Any

import protovalidate
import pytest
from buf.validate import validate_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polysight.gateway.v1 import polysight_pb2
from polysight.llm.v1 import generation_pb2
from polysight.vision.v1 import detection_pb2, ocr_pb2, panoptic_pb2, scene_graph_pb2
from serving.errors import InvalidFieldError
from serving.field_rules import Doubt, FieldRules

REQUESTS: list[type[Message]] = [
    detection_pb2.DetectRequest,
    ocr_pb2.RecognizeTextRequest,
    panoptic_pb2.SegmentRequest,
    scene_graph_pb2.GenerateSceneGraphRequest,
    generation_pb2.GenerateRequest,
    polysight_pb2.PerceiveRequest,
    polysight_pb2.AnswerRequest,
]
RULES = FieldRules()
_new_validator: Any = protovalidate.Validator
REFEREE = _new_validator()

NUMBERS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32) | st.sampled_from([0.0, 1.0, -0.0, 0.5]),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
    FieldDescriptor.CPPTYPE_INT32: st.integers(-3, 20),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-3, 700),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 20) | st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_ENUM: st.integers(0, 6),
}


def fill(draw: st.DrawFn, message: Message, depth: int = 0) -> None:
    """Set some fields of `message` to values near the limits that rules like to have."""
    for field in message.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            if depth > 3:
                continue
            if field.is_repeated:
                for _ in range(draw(st.integers(0, 3))):
                    fill(draw, getattr(message, field.name).add(), depth + 1)
            else:
                child = getattr(message, field.name)
                child.SetInParent()
                fill(draw, child, depth + 1)
            continue
        if field.type == FieldDescriptor.TYPE_BYTES:
            one: st.SearchStrategy[Any] = st.binary(max_size=4)
        elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            one = st.text(max_size=3) | st.sampled_from(["x" * 128, "x" * 129, "x" * 256, "é" * 257])
        else:
            one = NUMBERS[field.cpp_type]
        if field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(one, max_size=4)))
        else:
            setattr(message, field.name, draw(one))


@st.composite
def requests(draw: st.DrawFn) -> Message:
    message = draw(st.sampled_from(REQUESTS))()
    fill(draw, message)
    return message


def repeated_enum_with_unknown_item(message: Message) -> bool:
    """What protovalidate 1.2 lets pass although the rule says `defined_only`."""
    for field, value in message.ListFields():
        if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM and field.is_repeated:
            assert field.enum_type is not None
            if any(item not in field.enum_type.values_by_number for item in value):
                return True
        nested = field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE and not field.is_repeated
        if nested and repeated_enum_with_unknown_item(value):
            return True
    return False


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(requests())
def test_the_screen_and_protovalidate_agree(message: Message) -> None:
    doubt = RULES.screen(message)
    violations = REFEREE.collect_violations(message)
    if doubt is None:
        assert not violations
    else:
        assert doubt.rule is not None, "the contract uses a rule that the screen does not know"
        assert violations or repeated_enum_with_unknown_item(message)


@pytest.mark.parametrize(
    ("nanos", "good"), [(1, False), (999, False), (1000, True), (1001, True), (10**6, True)]
)
def test_a_budget_is_reckoned_in_whole_microseconds(nanos: int, good: bool) -> None:
    request = polysight_pb2.PerceiveRequest()
    request.image.SetInParent()
    request.options.budget.nanos = nanos
    assert (RULES.screen(request) is None) is good
    assert (not REFEREE.collect_violations(request)) is good


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.DESCRIPTOR.name)
def test_every_request_of_the_contract_is_screened_without_the_referee(kind: type[Message]) -> None:
    doubt = RULES.screen(kind())
    assert doubt is None or doubt.rule is not None


def judged(message: Message) -> InvalidFieldError:
    doubt = RULES.screen(message)
    assert doubt is not None
    with pytest.raises(InvalidFieldError) as caught:
        RULES.judge(message, doubt)
    return caught.value


def test_a_violation_names_its_field_and_rule() -> None:
    request = detection_pb2.DetectRequest(vocabulary=["cat", ""])
    request.image.data = b"x"
    error = judged(request)
    assert error.metadata == {"field": "vocabulary[1]", "rule": "string.min_len"}
    assert error.message.startswith("vocabulary[1]: ")


def test_several_violations_are_counted() -> None:
    error = judged(detection_pb2.DetectRequest(score_threshold=2))
    assert error.metadata["field"] == "image"
    assert error.message.endswith("(and 1 more)")


def test_unknown_items_of_a_repeated_enum_are_refused_although_protovalidate_lets_them_pass() -> None:
    request = polysight_pb2.PerceiveRequest()
    request.image.data = b"x"
    request.options.experts.append(99)  # type: ignore[arg-type]
    assert not REFEREE.collect_violations(request)
    assert judged(request).metadata == {"field": "options.experts[0]", "rule": "enum.defined_only"}


def test_nested_paths_are_written_as_a_caller_would() -> None:
    request = generation_pb2.GenerateRequest()
    request.turns.add(role=generation_pb2.ROLE_USER, text="hello")
    request.adapters.adapters.add(name="object")
    request.adapters.adapters.add(name="vl", scale=float("nan"))
    assert judged(request).metadata["field"] == "adapters.adapters[1].scale"


def test_a_large_request_costs_microseconds() -> None:
    request = detection_pb2.DetectRequest(vocabulary=["word"] * 20, score_threshold=0.5)
    request.image.data = bytes(2_000_000)
    RULES.screen(request)
    begun = time.perf_counter()
    for _ in range(100):
        assert RULES.screen(request) is None
    assert (
        time.perf_counter() - begun
    ) / 100 < 1e-3  # about 15 microseconds; protovalidate alone takes 30 ms


def build(**fields: validate_pb2.FieldRules) -> type[Message]:
    """A message type of string fields with these rules, in a pool of its own."""
    file = descriptor_pb2.FileDescriptorProto(
        name="test.proto", package="test", syntax="proto3", dependency=["buf/validate/validate.proto"]
    )
    kind = file.message_type.add(name="Message")
    for number, (name, rules) in enumerate(fields.items(), start=1):
        field = kind.field.add(name=name, number=number, type="TYPE_STRING", label="LABEL_OPTIONAL")
        extension: Any = validate_pb2.field
        field.options.Extensions[extension].CopyFrom(rules)
    pool = descriptor_pool.DescriptorPool()
    for needed in (
        descriptor_pb2.DESCRIPTOR,
        *validate_pb2.DESCRIPTOR.dependencies,
        validate_pb2.DESCRIPTOR,
    ):
        pool.AddSerializedFile(needed.serialized_pb)
    pool.Add(file)
    made: type[Message] = message_factory.GetMessageClass(pool.FindMessageTypeByName("test.Message"))
    return made


def test_a_rule_that_the_screen_does_not_know_goes_to_the_referee() -> None:
    rules = validate_pb2.FieldRules()
    rules.string.pattern = "^[a-z]+$"
    kind = build(name=rules)
    fresh = FieldRules()
    good, bad = kind(name="abc"), kind(name="ABC")
    assert fresh.screen(good) == fresh.screen(bad) == Doubt("name", None)


@pytest.mark.parametrize(
    ("rule", "kept", "broken"),
    [
        ("const", "a", "b"),
        ("len", "abc", "ab"),
        ("min_bytes", "é", "a"),
        ("max_bytes", "aa", "éé"),
        ("prefix", "abx", "xab"),
        ("suffix", "xab", "abx"),
        ("contains", "xabx", "axb"),
        ("not_contains", "axb", "xabx"),
        ("in", "yes", "maybe"),
        ("not_in", "maybe", "no"),
    ],
)
def test_string_rules(rule: str, kept: str, broken: str) -> None:
    values: dict[str, Any] = {"const": "a", "len": 3, "min_bytes": 2, "max_bytes": 3}
    values |= dict.fromkeys(("prefix", "suffix", "contains", "not_contains"), "ab")
    rules = validate_pb2.FieldRules()
    if rule in {"in", "not_in"}:
        getattr(rules.string, rule).extend(["yes", "no"])
    else:
        setattr(rules.string, rule, values[rule])
    kind, fresh = build(name=rules), FieldRules()
    assert fresh.screen(kind(name=kept)) is None
    assert fresh.screen(kind(name=broken)) == Doubt("name", f"string.{rule}")

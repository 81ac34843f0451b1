"""Field rules of the contract, checked at the speed of plain Python.

protovalidate interprets each rule as a CEL program: 3 to 30 ms for an ordinary request, on the event loop,
for nothing in nearly every case. So a request is first screened: once per message type the usual rules are
compiled into small Python predicates (microseconds). Only a request that fails one, or that uses a rule the
screen does not know, goes to protovalidate, which has the last word and names the violation. A property test
holds the two against each other.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from serving.errors import InvalidFieldError

Test = Callable[[Any], bool]


@dataclass(frozen=True)
class Doubt:
    """The first field that did not pass the screen. `rule` is None where only protovalidate can tell."""

    field: str
    rule: str | None

    def inside(self, prefix: str) -> Doubt:
        """The same, seen from the message that holds this one as `prefix`."""
        return Doubt(f"{prefix}.{self.field}", self.rule)


Check = Callable[[Message], Doubt | None]

# The extensions that the rules are written in; the stubs do not say that they are extensions.
_MESSAGE_RULES: Final[Any] = validate_pb2.message
_ONEOF_RULES: Final[Any] = validate_pb2.oneof
_FIELD_RULES: Final[Any] = validate_pb2.field


def _always(_value: object) -> bool:
    return True


def _not_in(banned: frozenset[Any]) -> Test:
    return lambda value: value not in banned


def _micros(duration: Any) -> int:
    """What protovalidate reckons in: what is finer is cut off."""
    return int(duration.seconds) * 10**6 + int(duration.nanos / 1000)


def _of_duration(make: Callable[[Any], Test], rule: Any) -> Test:
    test = make(_micros(rule))
    return lambda value: test(_micros(value))


_NUMBER: Final[Mapping[str, Callable[[Any], Test]]] = {
    "const": lambda rule: lambda value: value == rule,
    "lt": lambda rule: lambda value: value < rule,
    "lte": lambda rule: lambda value: value <= rule,
    "gt": lambda rule: lambda value: value > rule,
    "gte": lambda rule: lambda value: value >= rule,
    "in": lambda rule: frozenset(rule).__contains__,
    "not_in": lambda rule: _not_in(frozenset(rule)),
    "finite": lambda rule: math.isfinite if rule else _always,
}
_LENGTH: Final[Mapping[str, Callable[[Any], Test]]] = {
    "len": lambda rule: lambda value: len(value) == rule,
    "min_len": lambda rule: lambda value: len(value) >= rule,
    "max_len": lambda rule: lambda value: len(value) <= rule,
}
_STRING: Final[Mapping[str, Callable[[Any], Test]]] = {
    **_LENGTH,
    "const": _NUMBER["const"],
    "in": _NUMBER["in"],
    "not_in": _NUMBER["not_in"],
    "min_bytes": lambda rule: lambda value: len(value.encode()) >= rule,
    "max_bytes": lambda rule: lambda value: len(value) * 4 <= rule or len(value.encode()) <= rule,
    "prefix": lambda rule: lambda value: value.startswith(rule),
    "suffix": lambda rule: lambda value: value.endswith(rule),
    "contains": lambda rule: lambda value: rule in value,
    "not_contains": lambda rule: lambda value: rule not in value,
}
_REPEATED: Final[Mapping[str, Callable[[Any], Test]]] = {
    "min_items": _LENGTH["min_len"],
    "max_items": _LENGTH["max_len"],
    "unique": lambda rule: (lambda value: len(set(value)) == len(value)) if rule else _always,
}
_DURATION: Final[Mapping[str, Callable[[Any], Test]]] = {
    name: partial(_of_duration, _NUMBER[name]) for name in ("const", "lt", "lte", "gt", "gte")
}
_NUMBERS: Final = (
    *("float", "double", "int32", "int64", "uint32", "uint64", "sint32", "sint64"),
    *("fixed32", "fixed64", "sfixed32", "sfixed64"),
)
_TABLES: Final[Mapping[str, Mapping[str, Callable[[Any], Test]]]] = {
    **dict.fromkeys(_NUMBERS, _NUMBER),
    "enum": {name: _NUMBER[name] for name in ("const", "in", "not_in")},
    "bool": {"const": _NUMBER["const"]},
    "string": _STRING,
    "bytes": {**_LENGTH, "const": _NUMBER["const"]},
    "duration": _DURATION,
    "repeated": _REPEATED,
}


class FieldRules:
    """The rules of every message type it is asked about, compiled at the first question. Safe from any
    thread.
    """

    def __init__(self) -> None:
        self._checks: dict[Descriptor, tuple[Check, ...]] = {}
        self._validator: Any = None
        self._lock = threading.Lock()

    def screen(self, message: Message) -> Doubt | None:
        """None if `message` keeps all rules; else what `judge` must look at. Microseconds; never raises."""
        for check in self._checks_of(cast("Descriptor", message.DESCRIPTOR)):
            if (doubt := check(message)) is not None:
                return doubt
        return None

    def judge(self, message: Message, doubt: Doubt) -> None:
        """Ask protovalidate about a doubtful message; raises InvalidFieldError. Tens of milliseconds,
        blocking.
        """
        with self._lock:  # the CEL parser is shared and keeps state while it compiles
            if self._validator is None:
                # Its import is a third of a process's start, for what most processes never need.
                import protovalidate

                self._validator = protovalidate.Validator()  # type: ignore[no-untyped-call]
            violations = self._validator.collect_violations(message)
        if violations:
            first = violations[0].proto
            more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
            raise _invalid(field_path(first.field), first.rule_id, first.message + more)
        if doubt.rule is not None:
            # protovalidate 1.2 does not apply `defined_only` to the items of a repeated enum.
            raise _invalid(doubt.field, doubt.rule, f"breaks the rule {doubt.rule}")

    def _checks_of(self, message: Descriptor) -> tuple[Check, ...]:
        checks = self._checks.get(message)
        if checks is None:
            checks = self._checks[message] = tuple(self._compile(message))
        return checks

    def _compile(self, message: Descriptor) -> Iterator[Check]:
        if message.GetOptions().HasExtension(_MESSAGE_RULES):
            yield lambda _: Doubt("", None)
        for oneof in message.oneofs:
            if oneof.GetOptions().Extensions[_ONEOF_RULES].required:
                yield _one_of(oneof.name)
        for field in message.fields:
            rules: validate_pb2.FieldRules = field.GetOptions().Extensions[_FIELD_RULES]
            if rules.ignore == validate_pb2.IGNORE_ALWAYS:
                continue
            if field.GetOptions().HasExtension(_FIELD_RULES):
                yield _field(field, rules)
            if field.message_type is not None:
                yield self._nested(field)

    def _nested(self, field: FieldDescriptor) -> Check:
        """A check of the message, or messages, that a field holds; a type may hold itself, so it is looked up
        late.
        """
        name, kind = field.name, field.message_type
        assert kind is not None  # narrowed by the caller
        if kind.GetOptions().map_entry:
            value = kind.fields_by_name["value"].message_type
            return lambda message: (
                Doubt(name, None)
                if value is not None and self._checks_of(value) and getattr(message, name)
                else None
            )

        def one(message: Message) -> Doubt | None:
            if not message.HasField(name) or not self._checks_of(kind):
                return None
            doubt = self.screen(getattr(message, name))
            return doubt and doubt.inside(name)

        def many(message: Message) -> Doubt | None:
            if not self._checks_of(kind):
                return None
            for index, item in enumerate(getattr(message, name)):
                if (doubt := self.screen(item)) is not None:
                    return doubt.inside(f"{name}[{index}]")
            return None

        return many if field.is_repeated else one


def field_path(path: validate_pb2.FieldPath) -> str:
    """A violation's path as a caller would write it: `options.experts[2]`, `thresholds["person"]`."""
    text = ""
    for element in path.elements:
        text += f".{element.field_name}" if text else element.field_name
        match element.WhichOneof("subscript"):
            case None:
                pass
            case "string_key":
                text += f'["{element.string_key}"]'
            case subscript:
                text += f"[{getattr(element, subscript)}]"
    return text


def _field(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> Check:
    name, optional, empty = field.name, field.has_presence, _is_empty(field)
    skip_empty = optional or rules.ignore == validate_pb2.IGNORE_IF_ZERO_VALUE
    tests = _tests(field, rules)
    items = _tests(field, rules.repeated.items) if rules.repeated.HasField("items") else ()
    if rules.repeated.items.ignore != validate_pb2.IGNORE_UNSPECIFIED or rules.repeated.items.required:
        items = None
    required = rules.required

    def check(message: Message) -> Doubt | None:
        if empty(message):
            if required:
                return Doubt(name, "required")
            if skip_empty:
                return None
        if tests is None or items is None:
            return Doubt(name, None)
        value = getattr(message, name)
        for rule, test in tests:
            if not test(value):
                return Doubt(name, rule)
        if items:
            for index, item in enumerate(value):
                for rule, test in items:
                    if not test(item):
                        return Doubt(f"{name}[{index}]", rule)
        return None

    return check


def _tests(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> tuple[tuple[str, Test], ...] | None:
    """The predicates for one value, with the ids of their rules; None if some rule is not known here."""
    if rules.cel or rules.cel_expression:
        return None
    kind = rules.WhichOneof("type")
    if kind is None:
        return ()
    if kind not in _TABLES:
        return None
    tests: list[tuple[str, Test]] = []
    set_rules = {rule.name: value for rule, value in getattr(rules, kind).ListFields()}
    for name, value in set_rules.items():
        if name == "example" or (kind == "repeated" and name == "items"):
            continue
        if kind == "enum" and name == "defined_only":
            assert field.enum_type is not None  # the contract does not compile otherwise
            if value:
                tests.append(("enum.defined_only", field.enum_type.values_by_number.__contains__))
        elif name in _TABLES[kind]:
            tests.append((f"{kind}.{name}", _TABLES[kind][name](value)))
        else:
            return None
    return None if _turned_around(set_rules) else tuple(tests)


def _turned_around(rules: Mapping[str, Any]) -> bool:
    """A lower limit at or above the upper one means "outside of": left to protovalidate."""
    low = next((rules[name] for name in ("gt", "gte") if name in rules), None)
    high = next((rules[name] for name in ("lt", "lte") if name in rules), None)
    if low is None or high is None:
        return False
    if isinstance(low, Message):
        low, high = _micros(low), _micros(high)
    return bool(low >= high)


def _one_of(name: str) -> Check:
    return lambda message: None if message.WhichOneof(name) else Doubt(name, "required")


def _is_empty(field: FieldDescriptor) -> Test:
    name = field.name
    if field.is_repeated:
        return lambda message: len(getattr(message, name)) == 0
    if field.has_presence:
        return lambda message: not message.HasField(name)
    default = field.default_value
    return lambda message: bool(getattr(message, name) == default)


def _invalid(field: str, rule: str, what: str) -> InvalidFieldError:
    where = f"{field}: " if field else ""
    return InvalidFieldError(f"{where}{what}", metadata={"field": field, "rule": rule})

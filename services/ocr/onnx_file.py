"""The little of the ONNX file format that this expert needs, read straight from the protobuf wire.

The character list of the recogniser lives in the model's metadata, and the weights can be touched up in place
(see `prepare`). Both need three message types of onnx.proto; the `onnx` package is only there for exporting.
Field numbers: ModelProto.graph 7, .metadata_props 14; GraphProto.initializer 5; TensorProto.data_type 2,
.raw_data 9; StringStringEntryProto.key 1, .value 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FLOAT32 = 1


class OnnxFormatError(ValueError):
    """The bytes are no protobuf message of the expected shape."""


@dataclass(frozen=True)
class _Field:
    number: int
    value: int  # of a varint; of a length-delimited field its length
    start: int  # of the payload, in bytes from the beginning of the file
    end: int


def read_metadata(model: bytes) -> dict[str, str]:
    """`metadata_props` of an ONNX model. Raises OnnxFormatError."""
    metadata: dict[str, str] = {}
    for entry in _fields(model, 0, len(model)):
        if entry.number == 14:
            parts = {
                field.number: model[field.start : field.end].decode("utf-8")
                for field in _fields(model, entry.start, entry.end)
            }
            metadata[parts.get(1, "")] = parts.get(2, "")
    return metadata


def float32_weights(model: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Byte ranges of the raw little-endian float32 initialisers of an ONNX model. Raises OnnxFormatError."""
    for graph in _fields(model, 0, len(model)):
        if graph.number != 7:
            continue
        for tensor in _fields(model, graph.start, graph.end):
            if tensor.number != 5:
                continue
            parts = {field.number: field for field in _fields(model, tensor.start, tensor.end)}
            if 2 in parts and parts[2].value == _FLOAT32 and 9 in parts:
                yield parts[9].start, parts[9].end


def _fields(data: bytes | bytearray, start: int, end: int) -> Iterator[_Field]:
    at = start
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, after = _varint(data, at, end)
            field = _Field(number, value, at, after)
        elif wire == _BYTES:
            value, begin = _varint(data, at, end)
            field = _Field(number, value, begin, begin + value)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
            field = _Field(number, size, at, at + size)
        else:
            raise OnnxFormatError(f"wire type {wire} at byte {at}")
        if field.end > end:
            raise OnnxFormatError(f"field {number} at byte {field.start} runs over its message")
        yield field
        at = field.end


def _varint(data: bytes | bytearray, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise OnnxFormatError(f"a number does not end at byte {at}")

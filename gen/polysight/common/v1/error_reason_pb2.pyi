from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_IMAGE_EMPTY: _ClassVar[ErrorReason]
    ERROR_REASON_IMAGE_UNSUPPORTED_FORMAT: _ClassVar[ErrorReason]
    ERROR_REASON_IMAGE_CORRUPT: _ClassVar[ErrorReason]
    ERROR_REASON_IMAGE_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_FIELD: _ClassVar[ErrorReason]
    ERROR_REASON_CRAYON_MALFORMED: _ClassVar[ErrorReason]
    ERROR_REASON_PROMPT_TOO_LONG: _ClassVar[ErrorReason]
    ERROR_REASON_UNSUPPORTED_OPTION: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_ADAPTER_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_ADAPTER_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_QUEUE_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_DEADLINE_UNREACHABLE: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_READY: _ClassVar[ErrorReason]
    ERROR_REASON_SHUTTING_DOWN: _ClassVar[ErrorReason]
    ERROR_REASON_EXPERT_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_EXPERT_TIMED_OUT: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_IMAGE_EMPTY: ErrorReason
ERROR_REASON_IMAGE_UNSUPPORTED_FORMAT: ErrorReason
ERROR_REASON_IMAGE_CORRUPT: ErrorReason
ERROR_REASON_IMAGE_TOO_LARGE: ErrorReason
ERROR_REASON_INVALID_FIELD: ErrorReason
ERROR_REASON_CRAYON_MALFORMED: ErrorReason
ERROR_REASON_PROMPT_TOO_LONG: ErrorReason
ERROR_REASON_UNSUPPORTED_OPTION: ErrorReason
ERROR_REASON_MODEL_NOT_FOUND: ErrorReason
ERROR_REASON_ADAPTER_NOT_FOUND: ErrorReason
ERROR_REASON_ADAPTER_MISMATCH: ErrorReason
ERROR_REASON_QUEUE_FULL: ErrorReason
ERROR_REASON_DEADLINE_UNREACHABLE: ErrorReason
ERROR_REASON_NOT_READY: ErrorReason
ERROR_REASON_SHUTTING_DOWN: ErrorReason
ERROR_REASON_EXPERT_UNAVAILABLE: ErrorReason
ERROR_REASON_EXPERT_TIMED_OUT: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason

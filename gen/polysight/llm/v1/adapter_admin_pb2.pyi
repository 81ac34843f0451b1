from buf.validate import validate_pb2 as _validate_pb2
from polysight.llm.v1 import generation_pb2 as _generation_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LoadAdapterRequest(_message.Message):
    __slots__ = ("model", "name", "folder", "by_default")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    BY_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    model: str
    name: str
    folder: str
    by_default: bool
    def __init__(self, model: _Optional[str] = ..., name: _Optional[str] = ..., folder: _Optional[str] = ..., by_default: _Optional[bool] = ...) -> None: ...

class LoadAdapterResponse(_message.Message):
    __slots__ = ("adapter", "replaced_sha256")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    REPLACED_SHA256_FIELD_NUMBER: _ClassVar[int]
    adapter: _generation_pb2.AdapterInfo
    replaced_sha256: str
    def __init__(self, adapter: _Optional[_Union[_generation_pb2.AdapterInfo, _Mapping]] = ..., replaced_sha256: _Optional[str] = ...) -> None: ...

class UnloadAdapterRequest(_message.Message):
    __slots__ = ("model", "name")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    model: str
    name: str
    def __init__(self, model: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class UnloadAdapterResponse(_message.Message):
    __slots__ = ("adapter",)
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    adapter: _generation_pb2.AdapterInfo
    def __init__(self, adapter: _Optional[_Union[_generation_pb2.AdapterInfo, _Mapping]] = ...) -> None: ...

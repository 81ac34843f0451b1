from buf.validate import validate_pb2 as _validate_pb2
from polysight.common.v1 import geometry_pb2 as _geometry_pb2
from polysight.common.v1 import image_pb2 as _image_pb2
from polysight.common.v1 import model_pb2 as _model_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RecognizeTextRequest(_message.Message):
    __slots__ = ("image", "confidence_threshold", "detection_threshold", "use_angle_classifier")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    DETECTION_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    USE_ANGLE_CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    image: _image_pb2.Image
    confidence_threshold: float
    detection_threshold: float
    use_angle_classifier: bool
    def __init__(self, image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ..., confidence_threshold: _Optional[float] = ..., detection_threshold: _Optional[float] = ..., use_angle_classifier: _Optional[bool] = ...) -> None: ...

class TextLine(_message.Message):
    __slots__ = ("text", "confidence", "polygon", "box", "upside_down", "words")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    POLYGON_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    UPSIDE_DOWN_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    text: str
    confidence: float
    polygon: _geometry_pb2.Polygon
    box: _geometry_pb2.Box
    upside_down: bool
    words: _containers.RepeatedCompositeFieldContainer[Word]
    def __init__(self, text: _Optional[str] = ..., confidence: _Optional[float] = ..., polygon: _Optional[_Union[_geometry_pb2.Polygon, _Mapping]] = ..., box: _Optional[_Union[_geometry_pb2.Box, _Mapping]] = ..., upside_down: _Optional[bool] = ..., words: _Optional[_Iterable[_Union[Word, _Mapping]]] = ...) -> None: ...

class Word(_message.Message):
    __slots__ = ("text", "confidence", "polygon")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    POLYGON_FIELD_NUMBER: _ClassVar[int]
    text: str
    confidence: float
    polygon: _geometry_pb2.Polygon
    def __init__(self, text: _Optional[str] = ..., confidence: _Optional[float] = ..., polygon: _Optional[_Union[_geometry_pb2.Polygon, _Mapping]] = ...) -> None: ...

class RecognizeTextResponse(_message.Message):
    __slots__ = ("lines", "image_width", "image_height", "timings", "model")
    LINES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    IMAGE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[TextLine]
    image_width: int
    image_height: int
    timings: _model_pb2.Timings
    model: _model_pb2.ModelRef
    def __init__(self, lines: _Optional[_Iterable[_Union[TextLine, _Mapping]]] = ..., image_width: _Optional[int] = ..., image_height: _Optional[int] = ..., timings: _Optional[_Union[_model_pb2.Timings, _Mapping]] = ..., model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ...) -> None: ...

class OcrServiceDescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OcrServiceDescribeResponse(_message.Message):
    __slots__ = ("description",)
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    description: _model_pb2.ModelDescription
    def __init__(self, description: _Optional[_Union[_model_pb2.ModelDescription, _Mapping]] = ...) -> None: ...

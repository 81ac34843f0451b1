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

class DetectRequest(_message.Message):
    __slots__ = ("image", "score_threshold", "max_detections", "vocabulary")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MAX_DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    image: _image_pb2.Image
    score_threshold: float
    max_detections: int
    vocabulary: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ..., score_threshold: _Optional[float] = ..., max_detections: _Optional[int] = ..., vocabulary: _Optional[_Iterable[str]] = ...) -> None: ...

class Detection(_message.Message):
    __slots__ = ("box", "score", "label_id", "label", "vocabulary_index")
    BOX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    LABEL_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_INDEX_FIELD_NUMBER: _ClassVar[int]
    box: _geometry_pb2.Box
    score: float
    label_id: int
    label: str
    vocabulary_index: int
    def __init__(self, box: _Optional[_Union[_geometry_pb2.Box, _Mapping]] = ..., score: _Optional[float] = ..., label_id: _Optional[int] = ..., label: _Optional[str] = ..., vocabulary_index: _Optional[int] = ...) -> None: ...

class VocabularyTerm(_message.Message):
    __slots__ = ("term", "visible", "labels")
    TERM_FIELD_NUMBER: _ClassVar[int]
    VISIBLE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    term: str
    visible: bool
    labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, term: _Optional[str] = ..., visible: _Optional[bool] = ..., labels: _Optional[_Iterable[str]] = ...) -> None: ...

class DetectResponse(_message.Message):
    __slots__ = ("detections", "vocabulary", "image_width", "image_height", "timings", "model")
    DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    IMAGE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    IMAGE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    detections: _containers.RepeatedCompositeFieldContainer[Detection]
    vocabulary: _containers.RepeatedCompositeFieldContainer[VocabularyTerm]
    image_width: int
    image_height: int
    timings: _model_pb2.Timings
    model: _model_pb2.ModelRef
    def __init__(self, detections: _Optional[_Iterable[_Union[Detection, _Mapping]]] = ..., vocabulary: _Optional[_Iterable[_Union[VocabularyTerm, _Mapping]]] = ..., image_width: _Optional[int] = ..., image_height: _Optional[int] = ..., timings: _Optional[_Union[_model_pb2.Timings, _Mapping]] = ..., model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ...) -> None: ...

class DetectionServiceDescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DetectionServiceDescribeResponse(_message.Message):
    __slots__ = ("description",)
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    description: _model_pb2.ModelDescription
    def __init__(self, description: _Optional[_Union[_model_pb2.ModelDescription, _Mapping]] = ...) -> None: ...

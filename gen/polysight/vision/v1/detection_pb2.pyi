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
    __slots__ = ("image", "score_threshold", "max_detections", "vocabulary", "class_agnostic", "image_queries", "iou_threshold", "profile")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MAX_DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    CLASS_AGNOSTIC_FIELD_NUMBER: _ClassVar[int]
    IMAGE_QUERIES_FIELD_NUMBER: _ClassVar[int]
    IOU_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    image: _image_pb2.Image
    score_threshold: float
    max_detections: int
    vocabulary: _containers.RepeatedScalarFieldContainer[str]
    class_agnostic: bool
    image_queries: _containers.RepeatedCompositeFieldContainer[ImageQuery]
    iou_threshold: float
    profile: _model_pb2.Profile
    def __init__(self, image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ..., score_threshold: _Optional[float] = ..., max_detections: _Optional[int] = ..., vocabulary: _Optional[_Iterable[str]] = ..., class_agnostic: _Optional[bool] = ..., image_queries: _Optional[_Iterable[_Union[ImageQuery, _Mapping]]] = ..., iou_threshold: _Optional[float] = ..., profile: _Optional[_Union[_model_pb2.Profile, str]] = ...) -> None: ...

class ImageQuery(_message.Message):
    __slots__ = ("image", "box")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    image: _image_pb2.Image
    box: _geometry_pb2.Box
    def __init__(self, image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ..., box: _Optional[_Union[_geometry_pb2.Box, _Mapping]] = ...) -> None: ...

class Detection(_message.Message):
    __slots__ = ("box", "score", "label_id", "label", "vocabulary_index", "image_query_index", "objectness")
    BOX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    LABEL_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_INDEX_FIELD_NUMBER: _ClassVar[int]
    IMAGE_QUERY_INDEX_FIELD_NUMBER: _ClassVar[int]
    OBJECTNESS_FIELD_NUMBER: _ClassVar[int]
    box: _geometry_pb2.Box
    score: float
    label_id: int
    label: str
    vocabulary_index: int
    image_query_index: int
    objectness: float
    def __init__(self, box: _Optional[_Union[_geometry_pb2.Box, _Mapping]] = ..., score: _Optional[float] = ..., label_id: _Optional[int] = ..., label: _Optional[str] = ..., vocabulary_index: _Optional[int] = ..., image_query_index: _Optional[int] = ..., objectness: _Optional[float] = ...) -> None: ...

class VocabularyTerm(_message.Message):
    __slots__ = ("term", "visible", "labels", "note")
    TERM_FIELD_NUMBER: _ClassVar[int]
    VISIBLE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    term: str
    visible: bool
    labels: _containers.RepeatedScalarFieldContainer[str]
    note: str
    def __init__(self, term: _Optional[str] = ..., visible: _Optional[bool] = ..., labels: _Optional[_Iterable[str]] = ..., note: _Optional[str] = ...) -> None: ...

class DetectResponse(_message.Message):
    __slots__ = ("detections", "vocabulary", "image_width", "image_height", "timings", "model", "profile", "vocabulary_version")
    DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    IMAGE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    IMAGE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_VERSION_FIELD_NUMBER: _ClassVar[int]
    detections: _containers.RepeatedCompositeFieldContainer[Detection]
    vocabulary: _containers.RepeatedCompositeFieldContainer[VocabularyTerm]
    image_width: int
    image_height: int
    timings: _model_pb2.Timings
    model: _model_pb2.ModelRef
    profile: _model_pb2.Profile
    vocabulary_version: str
    def __init__(self, detections: _Optional[_Iterable[_Union[Detection, _Mapping]]] = ..., vocabulary: _Optional[_Iterable[_Union[VocabularyTerm, _Mapping]]] = ..., image_width: _Optional[int] = ..., image_height: _Optional[int] = ..., timings: _Optional[_Union[_model_pb2.Timings, _Mapping]] = ..., model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ..., profile: _Optional[_Union[_model_pb2.Profile, str]] = ..., vocabulary_version: _Optional[str] = ...) -> None: ...

class DetectionServiceDescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DetectionServiceDescribeResponse(_message.Message):
    __slots__ = ("description", "own_vocabulary", "class_agnostic", "image_queries", "profiles")
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    OWN_VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    CLASS_AGNOSTIC_FIELD_NUMBER: _ClassVar[int]
    IMAGE_QUERIES_FIELD_NUMBER: _ClassVar[int]
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    description: _model_pb2.ModelDescription
    own_vocabulary: OwnVocabulary
    class_agnostic: bool
    image_queries: bool
    profiles: _containers.RepeatedScalarFieldContainer[_model_pb2.Profile]
    def __init__(self, description: _Optional[_Union[_model_pb2.ModelDescription, _Mapping]] = ..., own_vocabulary: _Optional[_Union[OwnVocabulary, _Mapping]] = ..., class_agnostic: _Optional[bool] = ..., image_queries: _Optional[bool] = ..., profiles: _Optional[_Iterable[_Union[_model_pb2.Profile, str]]] = ...) -> None: ...

class OwnVocabulary(_message.Message):
    __slots__ = ("name", "version", "size", "distinct", "template", "max_tokens")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DISTINCT_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    size: int
    distinct: int
    template: str
    max_tokens: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., size: _Optional[int] = ..., distinct: _Optional[int] = ..., template: _Optional[str] = ..., max_tokens: _Optional[int] = ...) -> None: ...

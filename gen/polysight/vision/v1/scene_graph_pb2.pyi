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

class GenerateSceneGraphRequest(_message.Message):
    __slots__ = ("image", "object_threshold", "relation_threshold", "max_relations", "mask_encoding", "profile")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    OBJECT_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    RELATION_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MAX_RELATIONS_FIELD_NUMBER: _ClassVar[int]
    MASK_ENCODING_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    image: _image_pb2.Image
    object_threshold: float
    relation_threshold: float
    max_relations: int
    mask_encoding: _geometry_pb2.MaskEncoding
    profile: _model_pb2.Profile
    def __init__(self, image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ..., object_threshold: _Optional[float] = ..., relation_threshold: _Optional[float] = ..., max_relations: _Optional[int] = ..., mask_encoding: _Optional[_Union[_geometry_pb2.MaskEncoding, str]] = ..., profile: _Optional[_Union[_model_pb2.Profile, str]] = ...) -> None: ...

class SceneObject(_message.Message):
    __slots__ = ("label_id", "label", "score", "box", "mask")
    LABEL_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    label_id: int
    label: str
    score: float
    box: _geometry_pb2.Box
    mask: _geometry_pb2.Mask
    def __init__(self, label_id: _Optional[int] = ..., label: _Optional[str] = ..., score: _Optional[float] = ..., box: _Optional[_Union[_geometry_pb2.Box, _Mapping]] = ..., mask: _Optional[_Union[_geometry_pb2.Mask, _Mapping]] = ...) -> None: ...

class Relation(_message.Message):
    __slots__ = ("subject_index", "object_index", "predicate_id", "predicate", "score")
    SUBJECT_INDEX_FIELD_NUMBER: _ClassVar[int]
    OBJECT_INDEX_FIELD_NUMBER: _ClassVar[int]
    PREDICATE_ID_FIELD_NUMBER: _ClassVar[int]
    PREDICATE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    subject_index: int
    object_index: int
    predicate_id: int
    predicate: str
    score: float
    def __init__(self, subject_index: _Optional[int] = ..., object_index: _Optional[int] = ..., predicate_id: _Optional[int] = ..., predicate: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class GenerateSceneGraphResponse(_message.Message):
    __slots__ = ("objects", "relations", "image_width", "image_height", "timings", "model", "profile")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    RELATIONS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    IMAGE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[SceneObject]
    relations: _containers.RepeatedCompositeFieldContainer[Relation]
    image_width: int
    image_height: int
    timings: _model_pb2.Timings
    model: _model_pb2.ModelRef
    profile: _model_pb2.Profile
    def __init__(self, objects: _Optional[_Iterable[_Union[SceneObject, _Mapping]]] = ..., relations: _Optional[_Iterable[_Union[Relation, _Mapping]]] = ..., image_width: _Optional[int] = ..., image_height: _Optional[int] = ..., timings: _Optional[_Union[_model_pb2.Timings, _Mapping]] = ..., model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ..., profile: _Optional[_Union[_model_pb2.Profile, str]] = ...) -> None: ...

class SceneGraphServiceDescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SceneGraphServiceDescribeResponse(_message.Message):
    __slots__ = ("description",)
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    description: _model_pb2.ModelDescription
    def __init__(self, description: _Optional[_Union[_model_pb2.ModelDescription, _Mapping]] = ...) -> None: ...

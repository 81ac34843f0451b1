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

class SegmentRequest(_message.Message):
    __slots__ = ("image", "score_threshold", "mask_threshold", "overlap_threshold", "mask_encoding", "grids", "include_instances", "max_segments", "profile")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MASK_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MASK_ENCODING_FIELD_NUMBER: _ClassVar[int]
    GRIDS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_INSTANCES_FIELD_NUMBER: _ClassVar[int]
    MAX_SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    image: _image_pb2.Image
    score_threshold: float
    mask_threshold: float
    overlap_threshold: float
    mask_encoding: _geometry_pb2.MaskEncoding
    grids: _containers.RepeatedCompositeFieldContainer[GridSize]
    include_instances: bool
    max_segments: int
    profile: _model_pb2.Profile
    def __init__(self, image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ..., score_threshold: _Optional[float] = ..., mask_threshold: _Optional[float] = ..., overlap_threshold: _Optional[float] = ..., mask_encoding: _Optional[_Union[_geometry_pb2.MaskEncoding, str]] = ..., grids: _Optional[_Iterable[_Union[GridSize, _Mapping]]] = ..., include_instances: _Optional[bool] = ..., max_segments: _Optional[int] = ..., profile: _Optional[_Union[_model_pb2.Profile, str]] = ...) -> None: ...

class GridSize(_message.Message):
    __slots__ = ("height", "width")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("id", "label_id", "label", "is_thing", "score", "box", "mask", "area")
    ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    IS_THING_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    AREA_FIELD_NUMBER: _ClassVar[int]
    id: int
    label_id: int
    label: str
    is_thing: bool
    score: float
    box: _geometry_pb2.Box
    mask: _geometry_pb2.Mask
    area: float
    def __init__(self, id: _Optional[int] = ..., label_id: _Optional[int] = ..., label: _Optional[str] = ..., is_thing: _Optional[bool] = ..., score: _Optional[float] = ..., box: _Optional[_Union[_geometry_pb2.Box, _Mapping]] = ..., mask: _Optional[_Union[_geometry_pb2.Mask, _Mapping]] = ..., area: _Optional[float] = ...) -> None: ...

class Instance(_message.Message):
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

class PanopticGrid(_message.Message):
    __slots__ = ("height", "width", "segment_ids")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_IDS_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    segment_ids: bytes
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., segment_ids: _Optional[bytes] = ...) -> None: ...

class SegmentResponse(_message.Message):
    __slots__ = ("segments", "grids", "instances", "image_width", "image_height", "timings", "model", "profile")
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    GRIDS_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    IMAGE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    grids: _containers.RepeatedCompositeFieldContainer[PanopticGrid]
    instances: _containers.RepeatedCompositeFieldContainer[Instance]
    image_width: int
    image_height: int
    timings: _model_pb2.Timings
    model: _model_pb2.ModelRef
    profile: _model_pb2.Profile
    def __init__(self, segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., grids: _Optional[_Iterable[_Union[PanopticGrid, _Mapping]]] = ..., instances: _Optional[_Iterable[_Union[Instance, _Mapping]]] = ..., image_width: _Optional[int] = ..., image_height: _Optional[int] = ..., timings: _Optional[_Union[_model_pb2.Timings, _Mapping]] = ..., model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ..., profile: _Optional[_Union[_model_pb2.Profile, str]] = ...) -> None: ...

class PanopticServiceDescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PanopticServiceDescribeResponse(_message.Message):
    __slots__ = ("description",)
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    description: _model_pb2.ModelDescription
    def __init__(self, description: _Optional[_Union[_model_pb2.ModelDescription, _Mapping]] = ...) -> None: ...

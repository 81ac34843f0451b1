import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.rpc import status_pb2 as _status_pb2
from polysight.common.v1 import geometry_pb2 as _geometry_pb2
from polysight.common.v1 import image_pb2 as _image_pb2
from polysight.common.v1 import model_pb2 as _model_pb2
from polysight.llm.v1 import generation_pb2 as _generation_pb2
from polysight.vision.v1 import detection_pb2 as _detection_pb2
from polysight.vision.v1 import ocr_pb2 as _ocr_pb2
from polysight.vision.v1 import panoptic_pb2 as _panoptic_pb2
from polysight.vision.v1 import scene_graph_pb2 as _scene_graph_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Expert(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPERT_UNSPECIFIED: _ClassVar[Expert]
    EXPERT_PANOPTIC: _ClassVar[Expert]
    EXPERT_DETECTION: _ClassVar[Expert]
    EXPERT_SCENE_GRAPH: _ClassVar[Expert]
    EXPERT_OCR: _ClassVar[Expert]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_OK: _ClassVar[Outcome]
    OUTCOME_FAILED: _ClassVar[Outcome]
    OUTCOME_TIMED_OUT: _ClassVar[Outcome]
    OUTCOME_SKIPPED: _ClassVar[Outcome]
EXPERT_UNSPECIFIED: Expert
EXPERT_PANOPTIC: Expert
EXPERT_DETECTION: Expert
EXPERT_SCENE_GRAPH: Expert
EXPERT_OCR: Expert
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_OK: Outcome
OUTCOME_FAILED: Outcome
OUTCOME_TIMED_OUT: Outcome
OUTCOME_SKIPPED: Outcome

class PerceptionOptions(_message.Message):
    __slots__ = ("experts", "budget", "vocabulary", "verbalization_form", "mask_encoding", "profile")
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    VERBALIZATION_FORM_FIELD_NUMBER: _ClassVar[int]
    MASK_ENCODING_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    experts: _containers.RepeatedScalarFieldContainer[Expert]
    budget: _duration_pb2.Duration
    vocabulary: _containers.RepeatedScalarFieldContainer[str]
    verbalization_form: _generation_pb2.VerbalizationForm
    mask_encoding: _geometry_pb2.MaskEncoding
    profile: _model_pb2.Profile
    def __init__(self, experts: _Optional[_Iterable[_Union[Expert, str]]] = ..., budget: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., vocabulary: _Optional[_Iterable[str]] = ..., verbalization_form: _Optional[_Union[_generation_pb2.VerbalizationForm, str]] = ..., mask_encoding: _Optional[_Union[_geometry_pb2.MaskEncoding, str]] = ..., profile: _Optional[_Union[_model_pb2.Profile, str]] = ...) -> None: ...

class PerceiveRequest(_message.Message):
    __slots__ = ("image", "options")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    image: _image_pb2.Image
    options: PerceptionOptions
    def __init__(self, image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ..., options: _Optional[_Union[PerceptionOptions, _Mapping]] = ...) -> None: ...

class ExpertReport(_message.Message):
    __slots__ = ("expert", "outcome", "status", "elapsed", "cached", "panoptic", "detection", "scene_graph", "ocr")
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    PANOPTIC_FIELD_NUMBER: _ClassVar[int]
    DETECTION_FIELD_NUMBER: _ClassVar[int]
    SCENE_GRAPH_FIELD_NUMBER: _ClassVar[int]
    OCR_FIELD_NUMBER: _ClassVar[int]
    expert: Expert
    outcome: Outcome
    status: _status_pb2.Status
    elapsed: _duration_pb2.Duration
    cached: bool
    panoptic: _panoptic_pb2.SegmentResponse
    detection: _detection_pb2.DetectResponse
    scene_graph: _scene_graph_pb2.GenerateSceneGraphResponse
    ocr: _ocr_pb2.RecognizeTextResponse
    def __init__(self, expert: _Optional[_Union[Expert, str]] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., elapsed: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., cached: _Optional[bool] = ..., panoptic: _Optional[_Union[_panoptic_pb2.SegmentResponse, _Mapping]] = ..., detection: _Optional[_Union[_detection_pb2.DetectResponse, _Mapping]] = ..., scene_graph: _Optional[_Union[_scene_graph_pb2.GenerateSceneGraphResponse, _Mapping]] = ..., ocr: _Optional[_Union[_ocr_pb2.RecognizeTextResponse, _Mapping]] = ...) -> None: ...

class Phrase(_message.Message):
    __slots__ = ("start", "end", "expert", "indices", "box")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    expert: Expert
    indices: _containers.RepeatedScalarFieldContainer[int]
    box: _geometry_pb2.Box
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ..., expert: _Optional[_Union[Expert, str]] = ..., indices: _Optional[_Iterable[int]] = ..., box: _Optional[_Union[_geometry_pb2.Box, _Mapping]] = ...) -> None: ...

class Verbalization(_message.Message):
    __slots__ = ("text", "form", "phrases")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    PHRASES_FIELD_NUMBER: _ClassVar[int]
    text: str
    form: _generation_pb2.VerbalizationForm
    phrases: _containers.RepeatedCompositeFieldContainer[Phrase]
    def __init__(self, text: _Optional[str] = ..., form: _Optional[_Union[_generation_pb2.VerbalizationForm, str]] = ..., phrases: _Optional[_Iterable[_Union[Phrase, _Mapping]]] = ...) -> None: ...

class PerceiveResponse(_message.Message):
    __slots__ = ("reports", "verbalization", "crayon", "elapsed", "request_id")
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    VERBALIZATION_FIELD_NUMBER: _ClassVar[int]
    CRAYON_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    reports: _containers.RepeatedCompositeFieldContainer[ExpertReport]
    verbalization: Verbalization
    crayon: _generation_pb2.CrayonMaps
    elapsed: _duration_pb2.Duration
    request_id: str
    def __init__(self, reports: _Optional[_Iterable[_Union[ExpertReport, _Mapping]]] = ..., verbalization: _Optional[_Union[Verbalization, _Mapping]] = ..., crayon: _Optional[_Union[_generation_pb2.CrayonMaps, _Mapping]] = ..., elapsed: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class AnswerRequest(_message.Message):
    __slots__ = ("image", "turns", "options", "model", "adapters", "sampling", "stop", "seed", "constraint", "logprobs")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINT_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    image: _image_pb2.Image
    turns: _containers.RepeatedCompositeFieldContainer[_generation_pb2.Turn]
    options: PerceptionOptions
    model: str
    adapters: _generation_pb2.AdapterSet
    sampling: _generation_pb2.SamplingParameters
    stop: _containers.RepeatedScalarFieldContainer[str]
    seed: int
    constraint: _generation_pb2.OutputConstraint
    logprobs: int
    def __init__(self, image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ..., turns: _Optional[_Iterable[_Union[_generation_pb2.Turn, _Mapping]]] = ..., options: _Optional[_Union[PerceptionOptions, _Mapping]] = ..., model: _Optional[str] = ..., adapters: _Optional[_Union[_generation_pb2.AdapterSet, _Mapping]] = ..., sampling: _Optional[_Union[_generation_pb2.SamplingParameters, _Mapping]] = ..., stop: _Optional[_Iterable[str]] = ..., seed: _Optional[int] = ..., constraint: _Optional[_Union[_generation_pb2.OutputConstraint, _Mapping]] = ..., logprobs: _Optional[int] = ...) -> None: ...

class AnswerTimings(_message.Message):
    __slots__ = ("perceive", "verbalize", "time_to_first_token", "total", "generation")
    PERCEIVE_FIELD_NUMBER: _ClassVar[int]
    VERBALIZE_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    perceive: _duration_pb2.Duration
    verbalize: _duration_pb2.Duration
    time_to_first_token: _duration_pb2.Duration
    total: _duration_pb2.Duration
    generation: _generation_pb2.GenerationTimings
    def __init__(self, perceive: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., verbalize: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., time_to_first_token: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., total: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., generation: _Optional[_Union[_generation_pb2.GenerationTimings, _Mapping]] = ...) -> None: ...

class AnswerDone(_message.Message):
    __slots__ = ("finish_reason", "text", "usage", "timings", "model", "adapters", "missing", "seed", "request_id")
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    finish_reason: _generation_pb2.FinishReason
    text: str
    usage: _generation_pb2.Usage
    timings: AnswerTimings
    model: _model_pb2.ModelRef
    adapters: _containers.RepeatedCompositeFieldContainer[_generation_pb2.AdapterScale]
    missing: _containers.RepeatedScalarFieldContainer[Expert]
    seed: int
    request_id: str
    def __init__(self, finish_reason: _Optional[_Union[_generation_pb2.FinishReason, str]] = ..., text: _Optional[str] = ..., usage: _Optional[_Union[_generation_pb2.Usage, _Mapping]] = ..., timings: _Optional[_Union[AnswerTimings, _Mapping]] = ..., model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ..., adapters: _Optional[_Iterable[_Union[_generation_pb2.AdapterScale, _Mapping]]] = ..., missing: _Optional[_Iterable[_Union[Expert, str]]] = ..., seed: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class AnswerResponse(_message.Message):
    __slots__ = ("expert_report", "verbalization", "token", "done")
    EXPERT_REPORT_FIELD_NUMBER: _ClassVar[int]
    VERBALIZATION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    expert_report: ExpertReport
    verbalization: Verbalization
    token: _generation_pb2.Token
    done: AnswerDone
    def __init__(self, expert_report: _Optional[_Union[ExpertReport, _Mapping]] = ..., verbalization: _Optional[_Union[Verbalization, _Mapping]] = ..., token: _Optional[_Union[_generation_pb2.Token, _Mapping]] = ..., done: _Optional[_Union[AnswerDone, _Mapping]] = ...) -> None: ...

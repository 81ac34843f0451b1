import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from polysight.common.v1 import image_pb2 as _image_pb2
from polysight.common.v1 import model_pb2 as _model_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_USER: _ClassVar[Role]
    ROLE_ASSISTANT: _ClassVar[Role]

class AuxiliarySource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AUXILIARY_SOURCE_UNSPECIFIED: _ClassVar[AuxiliarySource]
    AUXILIARY_SOURCE_REGIONS: _ClassVar[AuxiliarySource]
    AUXILIARY_SOURCE_DETECTIONS: _ClassVar[AuxiliarySource]
    AUXILIARY_SOURCE_RELATIONS: _ClassVar[AuxiliarySource]
    AUXILIARY_SOURCE_TEXT: _ClassVar[AuxiliarySource]
    AUXILIARY_SOURCE_COLOUR_MAP: _ClassVar[AuxiliarySource]

class GateSide(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GATE_SIDE_UNSPECIFIED: _ClassVar[GateSide]
    GATE_SIDE_IMAGE: _ClassVar[GateSide]
    GATE_SIDE_LANGUAGE: _ClassVar[GateSide]

class GateExpert(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GATE_EXPERT_UNSPECIFIED: _ClassVar[GateExpert]
    GATE_EXPERT_AUXILIARY: _ClassVar[GateExpert]
    GATE_EXPERT_CROSS: _ClassVar[GateExpert]
    GATE_EXPERT_SELF: _ClassVar[GateExpert]

class PromptTemplate(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROMPT_TEMPLATE_UNSPECIFIED: _ClassVar[PromptTemplate]
    PROMPT_TEMPLATE_EVALUATION: _ClassVar[PromptTemplate]
    PROMPT_TEMPLATE_DEMO: _ClassVar[PromptTemplate]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_END_OF_TURN: _ClassVar[FinishReason]
    FINISH_REASON_STOP_STRING: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]

class VerbalizationForm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERBALIZATION_FORM_UNSPECIFIED: _ClassVar[VerbalizationForm]
    VERBALIZATION_FORM_COLLAVO: _ClassVar[VerbalizationForm]
    VERBALIZATION_FORM_MOAI: _ClassVar[VerbalizationForm]
    VERBALIZATION_FORM_POLYSIGHT: _ClassVar[VerbalizationForm]
ROLE_UNSPECIFIED: Role
ROLE_USER: Role
ROLE_ASSISTANT: Role
AUXILIARY_SOURCE_UNSPECIFIED: AuxiliarySource
AUXILIARY_SOURCE_REGIONS: AuxiliarySource
AUXILIARY_SOURCE_DETECTIONS: AuxiliarySource
AUXILIARY_SOURCE_RELATIONS: AuxiliarySource
AUXILIARY_SOURCE_TEXT: AuxiliarySource
AUXILIARY_SOURCE_COLOUR_MAP: AuxiliarySource
GATE_SIDE_UNSPECIFIED: GateSide
GATE_SIDE_IMAGE: GateSide
GATE_SIDE_LANGUAGE: GateSide
GATE_EXPERT_UNSPECIFIED: GateExpert
GATE_EXPERT_AUXILIARY: GateExpert
GATE_EXPERT_CROSS: GateExpert
GATE_EXPERT_SELF: GateExpert
PROMPT_TEMPLATE_UNSPECIFIED: PromptTemplate
PROMPT_TEMPLATE_EVALUATION: PromptTemplate
PROMPT_TEMPLATE_DEMO: PromptTemplate
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_END_OF_TURN: FinishReason
FINISH_REASON_STOP_STRING: FinishReason
FINISH_REASON_LENGTH: FinishReason
VERBALIZATION_FORM_UNSPECIFIED: VerbalizationForm
VERBALIZATION_FORM_COLLAVO: VerbalizationForm
VERBALIZATION_FORM_MOAI: VerbalizationForm
VERBALIZATION_FORM_POLYSIGHT: VerbalizationForm

class Turn(_message.Message):
    __slots__ = ("role", "text")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    role: Role
    text: str
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., text: _Optional[str] = ...) -> None: ...

class AdapterScale(_message.Message):
    __slots__ = ("name", "scale")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    name: str
    scale: float
    def __init__(self, name: _Optional[str] = ..., scale: _Optional[float] = ...) -> None: ...

class AdapterSet(_message.Message):
    __slots__ = ("adapters",)
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedCompositeFieldContainer[AdapterScale]
    def __init__(self, adapters: _Optional[_Iterable[_Union[AdapterScale, _Mapping]]] = ...) -> None: ...

class CrayonMaps(_message.Message):
    __slots__ = ("height", "width", "class_indices", "instance_ordinals")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CLASS_INDICES_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ORDINALS_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    class_indices: bytes
    instance_ordinals: bytes
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., class_indices: _Optional[bytes] = ..., instance_ordinals: _Optional[bytes] = ...) -> None: ...

class SamplingParameters(_message.Message):
    __slots__ = ("temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens", "min_p", "beams")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    BEAMS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    max_new_tokens: int
    min_p: float
    beams: int
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., repetition_penalty: _Optional[float] = ..., max_new_tokens: _Optional[int] = ..., min_p: _Optional[float] = ..., beams: _Optional[int] = ...) -> None: ...

class CrayonAblation(_message.Message):
    __slots__ = ("without_semantic", "without_numbering", "without_text")
    WITHOUT_SEMANTIC_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_NUMBERING_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_TEXT_FIELD_NUMBER: _ClassVar[int]
    without_semantic: bool
    without_numbering: bool
    without_text: bool
    def __init__(self, without_semantic: _Optional[bool] = ..., without_numbering: _Optional[bool] = ..., without_text: _Optional[bool] = ...) -> None: ...

class SegmentGrid(_message.Message):
    __slots__ = ("height", "width", "segment_ids")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_IDS_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    segment_ids: bytes
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., segment_ids: _Optional[bytes] = ...) -> None: ...

class AuxiliarySentences(_message.Message):
    __slots__ = ("regions", "detections", "relations", "text")
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    RELATIONS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    regions: str
    detections: str
    relations: str
    text: str
    def __init__(self, regions: _Optional[str] = ..., detections: _Optional[str] = ..., relations: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class AuxiliaryAblation(_message.Message):
    __slots__ = ("off", "without")
    OFF_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_FIELD_NUMBER: _ClassVar[int]
    off: bool
    without: _containers.RepeatedScalarFieldContainer[AuxiliarySource]
    def __init__(self, off: _Optional[bool] = ..., without: _Optional[_Iterable[_Union[AuxiliarySource, str]]] = ...) -> None: ...

class ExpertWeights(_message.Message):
    __slots__ = ("auxiliary", "cross", "self")
    AUXILIARY_FIELD_NUMBER: _ClassVar[int]
    CROSS_FIELD_NUMBER: _ClassVar[int]
    SELF_FIELD_NUMBER: _ClassVar[int]
    auxiliary: float
    cross: float
    self: float
    def __init__(self_, auxiliary: _Optional[float] = ..., cross: _Optional[float] = ..., self: _Optional[float] = ...) -> None: ...

class BlendedWeights(_message.Message):
    __slots__ = ("weights", "share")
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    weights: ExpertWeights
    share: float
    def __init__(self, weights: _Optional[_Union[ExpertWeights, _Mapping]] = ..., share: _Optional[float] = ...) -> None: ...

class GateOverride(_message.Message):
    __slots__ = ("layer", "side", "fixed", "bias", "blended", "only")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    FIXED_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    BLENDED_FIELD_NUMBER: _ClassVar[int]
    ONLY_FIELD_NUMBER: _ClassVar[int]
    layer: int
    side: GateSide
    fixed: ExpertWeights
    bias: ExpertWeights
    blended: BlendedWeights
    only: GateExpert
    def __init__(self, layer: _Optional[int] = ..., side: _Optional[_Union[GateSide, str]] = ..., fixed: _Optional[_Union[ExpertWeights, _Mapping]] = ..., bias: _Optional[_Union[ExpertWeights, _Mapping]] = ..., blended: _Optional[_Union[BlendedWeights, _Mapping]] = ..., only: _Optional[_Union[GateExpert, str]] = ...) -> None: ...

class GateControls(_message.Message):
    __slots__ = ("overrides", "report")
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    overrides: _containers.RepeatedCompositeFieldContainer[GateOverride]
    report: bool
    def __init__(self, overrides: _Optional[_Iterable[_Union[GateOverride, _Mapping]]] = ..., report: _Optional[bool] = ...) -> None: ...

class GateWeights(_message.Message):
    __slots__ = ("layer", "side", "mean")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    layer: int
    side: GateSide
    mean: ExpertWeights
    def __init__(self, layer: _Optional[int] = ..., side: _Optional[_Union[GateSide, str]] = ..., mean: _Optional[_Union[ExpertWeights, _Mapping]] = ...) -> None: ...

class OutputConstraint(_message.Message):
    __slots__ = ("json_schema", "regex")
    JSON_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    REGEX_FIELD_NUMBER: _ClassVar[int]
    json_schema: str
    regex: str
    def __init__(self, json_schema: _Optional[str] = ..., regex: _Optional[str] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("model", "adapters", "turns", "image", "verbalized_text", "crayon", "sampling", "stop", "seed", "priority", "logprobs", "constraint", "profile", "prompt_template", "crayon_ablation", "segments", "auxiliary_sentences", "auxiliary_ablation", "gates")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    VERBALIZED_TEXT_FIELD_NUMBER: _ClassVar[int]
    CRAYON_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINT_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    CRAYON_ABLATION_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    AUXILIARY_SENTENCES_FIELD_NUMBER: _ClassVar[int]
    AUXILIARY_ABLATION_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    model: str
    adapters: AdapterSet
    turns: _containers.RepeatedCompositeFieldContainer[Turn]
    image: _image_pb2.Image
    verbalized_text: str
    crayon: CrayonMaps
    sampling: SamplingParameters
    stop: _containers.RepeatedScalarFieldContainer[str]
    seed: int
    priority: int
    logprobs: int
    constraint: OutputConstraint
    profile: _model_pb2.Profile
    prompt_template: PromptTemplate
    crayon_ablation: CrayonAblation
    segments: SegmentGrid
    auxiliary_sentences: AuxiliarySentences
    auxiliary_ablation: AuxiliaryAblation
    gates: GateControls
    def __init__(self, model: _Optional[str] = ..., adapters: _Optional[_Union[AdapterSet, _Mapping]] = ..., turns: _Optional[_Iterable[_Union[Turn, _Mapping]]] = ..., image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ..., verbalized_text: _Optional[str] = ..., crayon: _Optional[_Union[CrayonMaps, _Mapping]] = ..., sampling: _Optional[_Union[SamplingParameters, _Mapping]] = ..., stop: _Optional[_Iterable[str]] = ..., seed: _Optional[int] = ..., priority: _Optional[int] = ..., logprobs: _Optional[int] = ..., constraint: _Optional[_Union[OutputConstraint, _Mapping]] = ..., profile: _Optional[_Union[_model_pb2.Profile, str]] = ..., prompt_template: _Optional[_Union[PromptTemplate, str]] = ..., crayon_ablation: _Optional[_Union[CrayonAblation, _Mapping]] = ..., segments: _Optional[_Union[SegmentGrid, _Mapping]] = ..., auxiliary_sentences: _Optional[_Union[AuxiliarySentences, _Mapping]] = ..., auxiliary_ablation: _Optional[_Union[AuxiliaryAblation, _Mapping]] = ..., gates: _Optional[_Union[GateControls, _Mapping]] = ...) -> None: ...

class TokenLogprob(_message.Message):
    __slots__ = ("id", "logprob")
    ID_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    id: int
    logprob: float
    def __init__(self, id: _Optional[int] = ..., logprob: _Optional[float] = ...) -> None: ...

class Token(_message.Message):
    __slots__ = ("text", "id", "logprob", "likeliest")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    LIKELIEST_FIELD_NUMBER: _ClassVar[int]
    text: str
    id: int
    logprob: float
    likeliest: _containers.RepeatedCompositeFieldContainer[TokenLogprob]
    def __init__(self, text: _Optional[str] = ..., id: _Optional[int] = ..., logprob: _Optional[float] = ..., likeliest: _Optional[_Iterable[_Union[TokenLogprob, _Mapping]]] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("text_tokens", "image_tokens", "auxiliary_tokens", "generated_tokens", "cached_tokens")
    TEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    AUXILIARY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    text_tokens: int
    image_tokens: int
    auxiliary_tokens: int
    generated_tokens: int
    cached_tokens: int
    def __init__(self, text_tokens: _Optional[int] = ..., image_tokens: _Optional[int] = ..., auxiliary_tokens: _Optional[int] = ..., generated_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ...) -> None: ...

class GenerationTimings(_message.Message):
    __slots__ = ("queue", "prefill", "decode", "time_to_first_token", "time_per_token")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TIME_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    queue: _duration_pb2.Duration
    prefill: _duration_pb2.Duration
    decode: _duration_pb2.Duration
    time_to_first_token: _duration_pb2.Duration
    time_per_token: _duration_pb2.Duration
    def __init__(self, queue: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., prefill: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., decode: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., time_to_first_token: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., time_per_token: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("finish_reason", "text", "usage", "timings", "model", "adapters", "seed", "precision", "profile", "gates")
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    finish_reason: FinishReason
    text: str
    usage: Usage
    timings: GenerationTimings
    model: _model_pb2.ModelRef
    adapters: _containers.RepeatedCompositeFieldContainer[AdapterScale]
    seed: int
    precision: str
    profile: _model_pb2.Profile
    gates: _containers.RepeatedCompositeFieldContainer[GateWeights]
    def __init__(self, finish_reason: _Optional[_Union[FinishReason, str]] = ..., text: _Optional[str] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., timings: _Optional[_Union[GenerationTimings, _Mapping]] = ..., model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ..., adapters: _Optional[_Iterable[_Union[AdapterScale, _Mapping]]] = ..., seed: _Optional[int] = ..., precision: _Optional[str] = ..., profile: _Optional[_Union[_model_pb2.Profile, str]] = ..., gates: _Optional[_Iterable[_Union[GateWeights, _Mapping]]] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("token", "done")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    token: Token
    done: Done
    def __init__(self, token: _Optional[_Union[Token, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("model", "base", "precision", "context_length", "verbalization_form", "uses_image", "uses_crayon", "crayon_height", "crayon_width", "default_adapters", "weights", "requires_image", "uses_segments", "segment_height", "segment_width", "mixer_layers", "profiles")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    VERBALIZATION_FORM_FIELD_NUMBER: _ClassVar[int]
    USES_IMAGE_FIELD_NUMBER: _ClassVar[int]
    USES_CRAYON_FIELD_NUMBER: _ClassVar[int]
    CRAYON_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    CRAYON_WIDTH_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_IMAGE_FIELD_NUMBER: _ClassVar[int]
    USES_SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_WIDTH_FIELD_NUMBER: _ClassVar[int]
    MIXER_LAYERS_FIELD_NUMBER: _ClassVar[int]
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.ModelRef
    base: str
    precision: str
    context_length: int
    verbalization_form: VerbalizationForm
    uses_image: bool
    uses_crayon: bool
    crayon_height: int
    crayon_width: int
    default_adapters: _containers.RepeatedCompositeFieldContainer[AdapterScale]
    weights: _containers.RepeatedCompositeFieldContainer[_model_pb2.WeightsInfo]
    requires_image: bool
    uses_segments: bool
    segment_height: int
    segment_width: int
    mixer_layers: _containers.RepeatedScalarFieldContainer[int]
    profiles: _containers.RepeatedScalarFieldContainer[_model_pb2.Profile]
    def __init__(self, model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ..., base: _Optional[str] = ..., precision: _Optional[str] = ..., context_length: _Optional[int] = ..., verbalization_form: _Optional[_Union[VerbalizationForm, str]] = ..., uses_image: _Optional[bool] = ..., uses_crayon: _Optional[bool] = ..., crayon_height: _Optional[int] = ..., crayon_width: _Optional[int] = ..., default_adapters: _Optional[_Iterable[_Union[AdapterScale, _Mapping]]] = ..., weights: _Optional[_Iterable[_Union[_model_pb2.WeightsInfo, _Mapping]]] = ..., requires_image: _Optional[bool] = ..., uses_segments: _Optional[bool] = ..., segment_height: _Optional[int] = ..., segment_width: _Optional[int] = ..., mixer_layers: _Optional[_Iterable[int]] = ..., profiles: _Optional[_Iterable[_Union[_model_pb2.Profile, str]]] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelInfo]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelInfo, _Mapping]]] = ...) -> None: ...

class ListAdaptersRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class AdapterInfo(_message.Message):
    __slots__ = ("name", "model", "rank", "alpha", "sha256", "description", "by_default")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    BY_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    rank: int
    alpha: float
    sha256: str
    description: str
    by_default: bool
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., rank: _Optional[int] = ..., alpha: _Optional[float] = ..., sha256: _Optional[str] = ..., description: _Optional[str] = ..., by_default: _Optional[bool] = ...) -> None: ...

class ListAdaptersResponse(_message.Message):
    __slots__ = ("adapters",)
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedCompositeFieldContainer[AdapterInfo]
    def __init__(self, adapters: _Optional[_Iterable[_Union[AdapterInfo, _Mapping]]] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("model", "text", "adapters")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    model: str
    text: str
    adapters: AdapterSet
    def __init__(self, model: _Optional[str] = ..., text: _Optional[str] = ..., adapters: _Optional[_Union[AdapterSet, _Mapping]] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("values", "text_tokens", "model")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    TEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    text_tokens: int
    model: _model_pb2.ModelRef
    def __init__(self, values: _Optional[_Iterable[float]] = ..., text_tokens: _Optional[int] = ..., model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ...) -> None: ...

class CheckOptionsRequest(_message.Message):
    __slots__ = ("model", "adapters", "sampling", "logprobs", "constraint")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINT_FIELD_NUMBER: _ClassVar[int]
    model: str
    adapters: AdapterSet
    sampling: SamplingParameters
    logprobs: int
    constraint: OutputConstraint
    def __init__(self, model: _Optional[str] = ..., adapters: _Optional[_Union[AdapterSet, _Mapping]] = ..., sampling: _Optional[_Union[SamplingParameters, _Mapping]] = ..., logprobs: _Optional[int] = ..., constraint: _Optional[_Union[OutputConstraint, _Mapping]] = ...) -> None: ...

class CheckOptionsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

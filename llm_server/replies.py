"""From the engine's words to the contract's."""

from __future__ import annotations

from collections.abc import Mapping

from llm_server.adapter_registry import LoadedAdapter
from llm_server.faults import (
    ConstraintFault,
    DeadlineFault,
    EngineClosedFault,
    GenerationFault,
    QueueFullFault,
    TooLongFault,
    UnknownAdapterFault,
)
from llm_server.gate_request import gate_weights
from llm_server.published_conditioning import MoaiConditioning
from llm_server.request import no_adapter
from llm_server.sequence import AdapterScales, FinishedEvent, FinishReason, GenerationRequest, TokenEvent
from llm_server.served_model import ServedModel
from polysight.common.v1 import model_pb2
from polysight.llm.v1 import generation_pb2
from serving.errors import (
    DeadlineUnreachableError,
    InternalError,
    InvalidFieldError,
    PolysightError,
    PromptTooLongError,
    QueueFullError,
    ShuttingDownError,
)
from serving.timings import duration

_PROFILES: Mapping[str | None, model_pb2.Profile] = {
    "serving": model_pb2.PROFILE_SERVING,
    "reference": model_pb2.PROFILE_REFERENCE,
}
_FORMS = {
    "polysight": generation_pb2.VERBALIZATION_FORM_POLYSIGHT,
    "collavo": generation_pb2.VERBALIZATION_FORM_COLLAVO,
    "moai": generation_pb2.VERBALIZATION_FORM_MOAI,
}
_REASONS = {
    FinishReason.END_OF_TURN: generation_pb2.FINISH_REASON_END_OF_TURN,
    FinishReason.STOP_STRING: generation_pb2.FINISH_REASON_STOP_STRING,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
}


def token(event: TokenEvent) -> generation_pb2.Token:
    """A piece of the answer."""
    if event.logprobs is None:
        return generation_pb2.Token(text=event.text, id=event.token)
    return generation_pb2.Token(
        text=event.text,
        id=event.token,
        logprob=event.logprobs.chosen,
        likeliest=[
            generation_pb2.TokenLogprob(id=number, logprob=logprob)
            for number, logprob in event.logprobs.likeliest
        ],
    )


def done(end: FinishedEvent, request: GenerationRequest, model: ServedModel) -> generation_pb2.Done:
    """The end of an answer."""
    timings = generation_pb2.GenerationTimings(
        queue=duration(end.queue_s),
        prefill=duration(end.prefill_s),
        decode=duration(end.decode_s),
        time_to_first_token=duration(end.first_token_s),
    )
    if end.generated_tokens > 1:
        timings.time_per_token.CopyFrom(duration(end.decode_s / (end.generated_tokens - 1)))
    seen = request.conditioning
    image = 0 if seen is None else seen.image_tokens
    return generation_pb2.Done(
        finish_reason=_REASONS[end.reason],
        text=request.trim(end.text),
        usage=generation_pb2.Usage(
            text_tokens=end.prompt_tokens - image,
            image_tokens=image,
            auxiliary_tokens=0 if seen is None else seen.auxiliary_tokens,
            generated_tokens=end.generated_tokens,
            cached_tokens=end.cached_tokens,
        ),
        timings=timings,
        model=model_ref(model),
        adapters=adapter_scales(request.adapters),
        seed=request.seed,
        precision=model.precision,
        profile=_PROFILES.get(request.profile),
        gates=gate_weights(seen.record.means) if isinstance(seen, MoaiConditioning) and seen.record else (),
    )


def model_ref(model: ServedModel) -> model_pb2.ModelRef:
    """What answered."""
    return model_pb2.ModelRef(name=model.name, version=model.version, engine=model.device)


def model_info(model: ServedModel) -> generation_pb2.ModelInfo:
    """What the model is, and what it wants to be given."""
    traits = model.prompting.traits
    crayon, segments = traits.crayon_grid or (0, 0), traits.segment_grid or (0, 0)
    return generation_pb2.ModelInfo(
        model=model_ref(model),
        base=model.base,
        precision=model.precision,
        context_length=model.context_length,
        verbalization_form=_FORMS[traits.form],
        uses_image=traits.uses_image,
        requires_image=traits.uses_image,
        uses_crayon=traits.crayon_grid is not None,
        crayon_height=crayon[0],
        crayon_width=crayon[1],
        uses_segments=traits.segment_grid is not None,
        segment_height=segments[0],
        segment_width=segments[1],
        mixer_layers=traits.mixer_layers,
        profiles=[_PROFILES[profile] for profile in traits.profiles],
        default_adapters=adapter_scales(model.default_adapters),
        weights=[
            model_pb2.WeightsInfo(artifact=one.artifact, sha256=one.sha256, licence=one.licence)
            for one in model.weights
        ],
    )


def adapter_scales(adapters: AdapterScales) -> list[generation_pb2.AdapterScale]:
    """Adapters by name, with their factors."""
    return [generation_pb2.AdapterScale(name=name, scale=scale) for name, scale in adapters]


def adapter_info(adapter: LoadedAdapter, model: ServedModel) -> generation_pb2.AdapterInfo:
    """A loaded adapter."""
    return generation_pb2.AdapterInfo(
        name=adapter.files.name,
        model=model.name,
        rank=adapter.files.rank,
        alpha=adapter.files.alpha,
        sha256=adapter.files.sha256,
        description=adapter.files.description,
        by_default=adapter.by_default,
    )


def on_the_wire(fault: Exception, model: ServedModel) -> PolysightError | Exception:
    """The engine's fault in the words of the contract; what is not one stays as it is."""
    match fault:
        case QueueFullFault():
            return QueueFullError(
                f"{fault.queued} requests wait already",
                metadata={"queued": str(fault.queued)},
                retry_after_s=fault.retry_after_s,
            )
        case EngineClosedFault():
            return ShuttingDownError("the server is shutting down")
        case DeadlineFault():
            return DeadlineUnreachableError(str(fault))
        case UnknownAdapterFault():
            return no_adapter(fault.name, model)
        case TooLongFault():
            return PromptTooLongError(str(fault), metadata={"limit": str(model.context_length)})
        case ConstraintFault():
            return InvalidFieldError(
                f"constraint: {fault}", metadata={"field": "constraint", "rule": "followable"}
            )
        case GenerationFault():
            return InternalError("the model failed on this request")
    return fault

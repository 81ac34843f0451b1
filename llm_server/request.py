"""From the contract's request to the engine's, every field checked: what is wrong is named before anything is computed.

The interceptor has held the request against the field rules by then. What depends on the model, on two fields at once,
or would break the engine is checked here, without counting on that.
"""

from __future__ import annotations

import math
import secrets

from llm_server.constraint import CompiledConstraint, ConstraintRefused
from llm_server.prompting import invalid as _invalid
from llm_server.prompting import too_long as _too_long
from llm_server.sampling import InvalidSamplingError, SamplingParams
from llm_server.sequence import AdapterScales, GenerationRequest
from llm_server.served_model import ServedModel
from polysight.llm.v1 import generation_pb2
from serving.errors import (
    AdapterNotFoundError,
    ModelNotFoundError,
)
from serving.image import ImageLimits, read_header


def parse_request(
    request: generation_pb2.GenerateRequest,
    model: ServedModel,
    limits: ImageLimits,
    *,
    deadline: float | None,
) -> GenerationRequest:
    """The request as the engine takes it; ``deadline`` is on the engine's clock. Blocks for tokeniser and picture.

    Raises ModelNotFoundError, AdapterNotFoundError, InvalidFieldError, UnsupportedOptionError, CrayonMalformedError,
    PromptTooLongError and what a bad image raises.
    """
    check_model(request.model, model)
    adapters = read_adapter_set(request.adapters if request.HasField("adapters") else None, model)
    sampling = read_sampling(request, model)
    logprobs = read_logprobs(request, sampling)
    if any(not stop for stop in request.stop):
        raise _invalid("stop", "string.min_len", "a stop string must not be empty")
    if request.HasField("image"):
        read_header(request.image.data, limits)
    prompt = model.prompting.prepare(request, limit=model.prompt_limit)
    constraint = read_constraint(request, model, sampling)
    return GenerationRequest(
        prompt=prompt.tokens,
        sampling=sampling,
        seed=request.seed if request.HasField("seed") else secrets.randbits(64),
        end_tokens=prompt.end_tokens,
        adapters=adapters,
        stop=tuple(request.stop),
        deadline=deadline,
        priority=request.priority,
        logprobs=logprobs,
        constraint=constraint,
        conditioning=prompt.conditioning,
        profile=prompt.profile,
        trim=prompt.trim if constraint is None else str,
        shared=prompt.shared,
    )


def check_options(options: generation_pb2.CheckOptionsRequest, model: ServedModel) -> None:
    """Raises as :func:`parse_request` for a request with these options. Blocks for as long as the compiler takes."""
    request = generation_pb2.GenerateRequest(
        model=options.model,
        adapters=options.adapters if options.HasField("adapters") else None,
        sampling=options.sampling,
        logprobs=options.logprobs if options.HasField("logprobs") else None,
        constraint=options.constraint if options.HasField("constraint") else None,
    )
    check_model(request.model, model)
    read_adapter_set(request.adapters if request.HasField("adapters") else None, model)
    sampling = read_sampling(request, model)
    read_logprobs(request, sampling)
    read_constraint(request, model, sampling)


def parse_embed(request: generation_pb2.EmbedRequest, model: ServedModel) -> tuple[list[int], AdapterScales]:
    """The tokens of the text, and the adapters by name.

    Raises ModelNotFoundError, AdapterNotFoundError, InvalidFieldError and PromptTooLongError.
    """
    check_model(request.model, model)
    adapters = read_adapter_set(request.adapters if request.HasField("adapters") else None, model)
    tokens = model.chat.encode_text(request.text)
    if len(tokens) > model.embedder.limit:
        raise _too_long(len(tokens), model.embedder.limit)
    if not tokens:
        raise _invalid("text", "string.min_len", "there is nothing to embed")
    return tokens, adapters


def check_model(name: str, model: ServedModel) -> None:
    """Empty means the default. Raises ModelNotFoundError."""
    if name and name != model.name:
        raise ModelNotFoundError(f"no model {name!r}; there is {model.name}", metadata={"model": name})


def read_adapter_set(wanted: generation_pb2.AdapterSet | None, model: ServedModel) -> AdapterScales:
    """The adapters asked for, sorted by name. Raises AdapterNotFoundError and InvalidFieldError."""
    if wanted is None:
        return model.default_adapters
    scales: dict[str, float] = {}
    for index, adapter in enumerate(wanted.adapters):
        field = f"adapters.adapters[{index}]"
        if model.registry.find(adapter.name) is None:
            raise no_adapter(adapter.name, model)
        if adapter.name in scales:
            raise _invalid(f"{field}.name", "unique", f"{adapter.name} is named twice")
        scale = adapter.scale if adapter.HasField("scale") else 1.0
        if not math.isfinite(scale):
            raise _invalid(f"{field}.scale", "float.finite", "must be finite")
        scales[adapter.name] = scale
    return tuple(sorted(scales.items()))


def read_sampling(request: generation_pb2.GenerateRequest, model: ServedModel) -> SamplingParams:
    """Sampling parameters with their defaults. Raises InvalidFieldError."""
    wanted = request.sampling
    length = wanted.max_new_tokens if wanted.HasField("max_new_tokens") else model.default_max_new_tokens
    beams = wanted.beams if wanted.HasField("beams") else 1
    if beams > model.engine.slots:
        raise _invalid(
            "sampling.beams", "range", f"{beams} is more than the {model.engine.slots} rows of a batch"
        )
    try:
        return SamplingParams(
            temperature=wanted.temperature if wanted.HasField("temperature") else 0.0,
            top_p=wanted.top_p if wanted.HasField("top_p") else 1.0,
            top_k=wanted.top_k if wanted.HasField("top_k") else 0,
            repetition_penalty=wanted.repetition_penalty if wanted.HasField("repetition_penalty") else 1.0,
            max_new_tokens=length,
            min_p=wanted.min_p if wanted.HasField("min_p") else 0.0,
            beams=beams,
        )
    except InvalidSamplingError as error:
        raise _invalid(f"sampling.{error.field}", "range", str(error)) from error


def read_logprobs(request: generation_pb2.GenerateRequest, sampling: SamplingParams) -> int | None:
    """How many of the likeliest tokens to tell of; None if none is asked about. Raises InvalidFieldError."""
    if not request.HasField("logprobs"):
        return None
    if sampling.beams > 1:
        raise _invalid(
            "logprobs", "not_with_beams", "a token of a beam search has no log-probability of its own"
        )
    return request.logprobs


def read_constraint(
    request: generation_pb2.GenerateRequest, model: ServedModel, sampling: SamplingParams
) -> CompiledConstraint | None:
    """What the answer has to look like, compiled. Raises InvalidFieldError."""
    if not request.HasField("constraint"):
        return None
    form = request.constraint.WhichOneof("form")
    if form is None:
        raise _invalid("constraint", "oneof.required", "has no form")
    field = f"constraint.{form}"
    if sampling.beams > 1:
        raise _invalid(field, "not_with_beams", "a beam search cannot be held to a form")
    try:
        return model.constraints.compile(form, getattr(request.constraint, form))
    except ConstraintRefused as error:
        raise _invalid(field, "compiles", str(error)) from error


def no_adapter(name: str, model: ServedModel) -> AdapterNotFoundError:
    """There is no such adapter (any more)."""
    known = ", ".join(one.files.name for one in model.registry.all())
    return AdapterNotFoundError(
        f"no adapter {name!r} for {model.name}; there are: {known or 'none'}", metadata={"adapter": name}
    )

"""From the contract's request to the engine's, every field checked: what is wrong is named before anything is computed.

The interceptor has held the request against the field rules by then. What depends on the model, on two fields at once,
or would break the engine is checked here, without counting on that.
"""

from __future__ import annotations

import math
import secrets

from llm_server.prompts import chatml
from llm_server.sampling import InvalidSamplingError, SamplingParams
from llm_server.sequence import AdapterScales, GenerationRequest
from llm_server.served_model import ServedModel
from llm_server.tokenizer import PromptTooManyTokens
from polysight.llm.v1 import generation_pb2
from serving.errors import (
    AdapterNotFoundError,
    CrayonMalformedError,
    InvalidFieldError,
    ModelNotFoundError,
    PromptTooLongError,
)
from serving.image import ImageLimits, read_header

# COCO panoptic classes + 1, and instances of one class: 0 is unknown in both (contract, CrayonMaps).
_MOST_CLASS_INDEX = 133
_MOST_ORDINAL = 20

_ROLES = {generation_pb2.ROLE_USER: "user", generation_pb2.ROLE_ASSISTANT: "assistant"}


def parse_request(
    request: generation_pb2.GenerateRequest,
    model: ServedModel,
    limits: ImageLimits,
    *,
    deadline: float | None,
) -> GenerationRequest:
    """The request as the engine takes it; ``deadline`` is on the engine's clock. Blocks for the tokeniser.

    Raises ModelNotFoundError, AdapterNotFoundError, InvalidFieldError, CrayonMalformedError, PromptTooLongError and
    what a bad image raises.
    """
    check_model(request.model, model)
    adapters = read_adapter_set(request.adapters if request.HasField("adapters") else None, model)
    sampling = read_sampling(request, model)
    logprobs = request.logprobs if request.HasField("logprobs") else None
    if logprobs is not None and sampling.beams > 1:
        raise _invalid(
            "logprobs", "not_with_beams", "a token of a beam search has no log-probability of its own"
        )
    if any(not stop for stop in request.stop):
        raise _invalid("stop", "string.min_len", "a stop string must not be empty")
    if request.HasField("image"):
        read_header(request.image.data, limits)
    if request.HasField("crayon"):
        check_crayon(request.crayon)
    turns = read_turns(request)
    try:
        prompt = model.chat.encode_chat(turns, limit=model.prompt_limit)
    except PromptTooManyTokens as error:
        raise _too_long(error.tokens, error.limit) from error
    return GenerationRequest(
        prompt=tuple(prompt),
        sampling=sampling,
        seed=request.seed if request.HasField("seed") else secrets.randbits(64),
        end_tokens=model.chat.end_tokens,
        adapters=adapters,
        stop=tuple(request.stop),
        deadline=deadline,
        priority=request.priority,
        logprobs=logprobs,
    )


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


def read_turns(request: generation_pb2.GenerateRequest) -> list[chatml.Turn]:
    """The conversation, with what the experts saw put before the first user turn. Raises InvalidFieldError."""
    turns: list[chatml.Turn] = []
    first_user = True
    for index, turn in enumerate(request.turns):
        if turn.role == generation_pb2.ROLE_USER:
            text = chatml.first_user_text(request.verbalized_text, turn.text) if first_user else turn.text
            first_user = False
            turns.append(chatml.Turn("user", text))
        elif turn.role == generation_pb2.ROLE_ASSISTANT:
            turns.append(chatml.Turn("assistant", turn.text))
        else:
            raise _invalid(f"turns[{index}].role", "enum.defined_only", "must be user or assistant")
    if not turns or turns[-1].role != "user":
        raise _invalid("turns", "last_is_user", "the last turn must be the user's")
    return turns


def check_crayon(maps: generation_pb2.CrayonMaps) -> None:
    """Both maps fill their grid and stay within their vocabulary. Raises CrayonMalformedError."""
    expected = maps.height * maps.width
    for name, cells, most in (
        ("class_indices", maps.class_indices, _MOST_CLASS_INDEX),
        ("instance_ordinals", maps.instance_ordinals, _MOST_ORDINAL),
    ):
        if expected == 0 or len(cells) != expected:
            raise CrayonMalformedError(
                f"crayon.{name} has {len(cells)} bytes; a grid of {maps.height} x {maps.width} has {expected}",
                metadata={"field": name, "expected_bytes": str(expected), "actual_bytes": str(len(cells))},
            )
        if max(cells) > most:
            raise CrayonMalformedError(
                f"crayon.{name} holds {max(cells)}; the largest index is {most}",
                metadata={"field": name, "largest": str(max(cells)), "limit": str(most)},
            )


def no_adapter(name: str, model: ServedModel) -> AdapterNotFoundError:
    """There is no such adapter (any more)."""
    known = ", ".join(one.files.name for one in model.registry.all())
    return AdapterNotFoundError(
        f"no adapter {name!r} for {model.name}; there are: {known or 'none'}", metadata={"adapter": name}
    )


def _too_long(tokens: int, limit: int) -> PromptTooLongError:
    return PromptTooLongError(
        f"there are {tokens} tokens or more; this model takes {limit}",
        metadata={"tokens": str(tokens), "limit": str(limit)},
    )


def _invalid(field: str, rule: str, what: str) -> InvalidFieldError:
    return InvalidFieldError(f"{field}: {what}", metadata={"field": field, "rule": rule})

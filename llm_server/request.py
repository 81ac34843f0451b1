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
    adapters = read_adapter_set(request, model)
    sampling = read_sampling(request, model)
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
        raise PromptTooLongError(
            f"the prompt has {error.tokens} tokens or more; this model takes {error.limit}",
            metadata={"tokens": str(error.tokens), "limit": str(error.limit)},
        ) from error
    return GenerationRequest(
        prompt=tuple(prompt),
        sampling=sampling,
        seed=request.seed if request.HasField("seed") else secrets.randbits(64),
        end_tokens=model.chat.end_tokens,
        adapters=adapters,
        stop=tuple(request.stop),
        deadline=deadline,
    )


def check_model(name: str, model: ServedModel) -> None:
    """Empty means the default. Raises ModelNotFoundError."""
    if name and name != model.name:
        raise ModelNotFoundError(f"no model {name!r}; there is {model.name}", metadata={"model": name})


def read_adapter_set(request: generation_pb2.GenerateRequest, model: ServedModel) -> AdapterScales:
    """The adapters asked for, sorted by name. Raises AdapterNotFoundError and InvalidFieldError."""
    if not request.HasField("adapters"):
        return model.default_adapters
    known = [adapter.name for adapter in model.adapters]
    scales: dict[str, float] = {}
    for index, adapter in enumerate(request.adapters.adapters):
        field = f"adapters.adapters[{index}]"
        if adapter.name not in known:
            raise AdapterNotFoundError(
                f"no adapter {adapter.name!r} for {model.name}; there are: {', '.join(known) or 'none'}",
                metadata={"adapter": adapter.name},
            )
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
    try:
        return SamplingParams(
            temperature=wanted.temperature if wanted.HasField("temperature") else 0.0,
            top_p=wanted.top_p if wanted.HasField("top_p") else 1.0,
            top_k=wanted.top_k if wanted.HasField("top_k") else 0,
            repetition_penalty=wanted.repetition_penalty if wanted.HasField("repetition_penalty") else 1.0,
            max_new_tokens=length,
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


def _invalid(field: str, rule: str, what: str) -> InvalidFieldError:
    return InvalidFieldError(f"{field}: {what}", metadata={"field": field, "rule": rule})

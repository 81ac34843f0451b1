"""Prompts of CoLLaVO and MoAI from requests: picture, crayon maps or auxiliary information, conversation."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from llm_server.crayon_request import check_crayon
from llm_server.gate_request import read_overrides
from llm_server.intern_chat import InternChat
from llm_server.models.aux_tokens import Source, auxiliary_text
from llm_server.models.dimensions import ModelDimensions
from llm_server.models.profiles import PROFILES, Profile, ProfileName
from llm_server.prompting import (
    MIXER_FIELDS,
    Prompt,
    Traits,
    alike,
    invalid,
    read_turns,
    refuse,
    too_long,
    unasked,
)
from llm_server.prompts.colour_map import ENTRIES
from llm_server.prompts.intern_tokenizer import unspaced
from llm_server.prompts.internlm import Template, trim
from llm_server.prompts.pixels import squash_demo, squash_eval
from llm_server.published_conditioning import CollavoConditioning, GateRecord, MoaiConditioning
from llm_server.tokenizer import PromptTooManyTokens
from polysight.common.v1 import image_pb2, model_pb2
from polysight.llm.v1 import generation_pb2 as pb
from serving.image import ImageLimits, decode_image

#: What CoLLaVO is told of a picture on which nothing was found.
NOTHING: Final = "None of detailed object information for image."

_PROFILES: Final[dict[int, ProfileName]] = {
    model_pb2.PROFILE_SERVING: "serving",
    model_pb2.PROFILE_REFERENCE: "reference",
}
_SENTENCES: Final[dict[int, Source]] = {
    pb.AUXILIARY_SOURCE_REGIONS: "regions",
    pb.AUXILIARY_SOURCE_DETECTIONS: "detections",
    pb.AUXILIARY_SOURCE_RELATIONS: "relations",
    pb.AUXILIARY_SOURCE_TEXT: "text",
}


class PublishedPrompting:
    """What both have in common: the picture, the conversation, the profile."""

    def __init__(
        self,
        chat: InternChat,
        dimensions: ModelDimensions,
        limits: ImageLimits,
        profile: ProfileName = "serving",
    ) -> None:
        """``limits`` are for pictures; ``profile`` is for requests that name none."""
        self._default = profile
        self._chat = chat
        self._dimensions = dimensions
        self._limits = limits

    def _profile(self, request: pb.GenerateRequest) -> Profile:
        return PROFILES[_PROFILES.get(request.profile, self._default)]

    @property
    def _profiles(self) -> tuple[ProfileName, ...]:
        return (self._default, *(name for name in PROFILES if name != self._default))

    def _template(self, request: pb.GenerateRequest) -> Template:
        return "demo" if request.prompt_template == pb.PROMPT_TEMPLATE_DEMO else "eval"

    def _pixels(self, request: pb.GenerateRequest) -> NDArray[np.uint8]:
        """(3, side, side) uint8. Transparency is composited on white (the published systems drop it)."""
        if not request.HasField("image"):
            raise invalid("image", "required", "this model answers about a picture, and there is none")
        squash = squash_demo if self._template(request) == "demo" else squash_eval
        return squash(decode_image(request.image.data, self._limits), self._dimensions.vision.image_size)

    def _tokens(self, request: pb.GenerateRequest, seen: str, limit: int) -> tuple[int, ...]:
        turns = read_turns(request, seen)
        try:
            ids = self._chat.encode_chat(turns, limit=limit, template=self._template(request))
        except PromptTooManyTokens as error:
            raise too_long(error.tokens, error.limit) from error
        return tuple(ids)

    def _shared(self, request: pb.GenerateRequest, seen: str, tokens: Sequence[int], limit: int) -> int:
        """How many of the first ``tokens`` stand before the last question."""
        turns = unasked(read_turns(request, seen), request.turns[-1].text)
        # A text may have more tokens than a longer one; this one is compared, not read.
        return alike(tokens, self._chat.encode_chat(turns, limit=2 * limit, template=self._template(request)))

    def _trim(self, request: pb.GenerateRequest, profile: Profile) -> Callable[[str], str]:
        if profile.name == "serving":
            return str.strip
        template = self._template(request)
        return lambda text: trim(unspaced(text), template)

    def _end_tokens(self, profile: Profile) -> frozenset[int]:
        return profile.stop_ids(eos_id=self._chat.eos_id, turn_end_id=self._chat.turn_end_id)


class CollavoPrompting(PublishedPrompting):
    """Prompts of CoLLaVO: the crayon sentence goes before the first question, the maps into the model's layers."""

    @property
    def traits(self) -> Traits:
        """See :class:`llm_server.prompting.Prompting`."""
        grid = self._dimensions.vision.grid
        return Traits("collavo", True, (grid, grid), profiles=self._profiles)

    def prepare(self, request: pb.GenerateRequest, *, limit: int) -> Prompt:
        """See :class:`llm_server.prompting.Prompting`."""
        refuse(request, *MIXER_FIELDS)
        profile, ablation = self._profile(request), request.crayon_ablation
        grid = self._dimensions.vision.grid
        classes, numbers = check_crayon(request.crayon if request.HasField("crayon") else None, (grid, grid))
        seen = "" if ablation.without_text else request.verbalized_text or NOTHING
        tokens = self._tokens(request, seen, limit)
        pixels = self._pixels(request)
        picture = _digest(pixels.tobytes())
        switches = bytes((not ablation.without_semantic, not ablation.without_numbering))
        return Prompt(
            tokens,
            self._end_tokens(profile),
            CollavoConditioning(
                digest=_digest(picture, classes.tobytes(), numbers.tobytes(), switches),
                image_start=tokens.index(self._chat.image_id),
                image_tokens=self._dimensions.vision.tokens,
                pixels=pixels,
                picture=picture,
                classes=classes,
                numbers=numbers,
                semantic=not ablation.without_semantic,
                numbering=not ablation.without_numbering,
                unknown_beyond=profile.unknown_beyond_table,
            ),
            profile.name,
            self._trim(request, profile),
            self._shared(request, seen, tokens, limit),
        )

    def warm_up(self) -> pb.GenerateRequest:
        """See :class:`llm_server.prompting.Prompting`."""
        grid = self._dimensions.vision.grid
        ones = bytes([1]) * grid**2
        crayon = pb.CrayonMaps(height=grid, width=grid, class_indices=ones, instance_ordinals=ones)
        return pb.GenerateRequest(image=_grey(self._dimensions), crayon=crayon)


class MoaiPrompting(PublishedPrompting):
    """Prompts of MoAI: what the experts saw becomes auxiliary tokens, apart from the conversation."""

    @property
    def traits(self) -> Traits:
        """See :class:`llm_server.prompting.Prompting`."""
        side = self._dimensions.vision.image_size
        return Traits("moai", True, None, (side, side), self._mixers, self._profiles)

    @property
    def _mixers(self) -> tuple[int, ...]:
        return () if self._dimensions.mixer is None else self._dimensions.mixer.layers

    def prepare(self, request: pb.GenerateRequest, *, limit: int) -> Prompt:
        """See :class:`llm_server.prompting.Prompting`."""
        refuse(request, "crayon_ablation")
        check_crayon(request.crayon if request.HasField("crayon") else None, None)
        profile = self._profile(request)
        overrides = read_overrides(request.gates.overrides, self._mixers)
        words, segments = self._auxiliary(request)
        tokens = self._tokens(request, "", limit)
        pixels = self._pixels(request)
        seen = b"" if segments is None else segments.tobytes()
        latents = 0 if self._dimensions.compressor is None else self._dimensions.compressor.latents
        picture = _digest(pixels.tobytes())
        return Prompt(
            tokens,
            self._end_tokens(profile),
            MoaiConditioning(
                digest=picture,
                image_start=tokens.index(self._chat.image_id),
                image_tokens=self._dimensions.vision.tokens,
                auxiliary_tokens=latents,
                whole=True,
                pixels=pixels,
                picture=picture,
                words=words,
                segments=segments,
                auxiliary=_digest(np.array(words, np.int64).tobytes(), seen),
                overrides=overrides,
                gate_dtype=profile.gate_dtype,
                record=GateRecord() if request.gates.report else None,
            ),
            profile.name,
            self._trim(request, profile),
        )

    def _auxiliary(self, request: pb.GenerateRequest) -> tuple[tuple[int, ...], NDArray[np.int32] | None]:
        """Ids of the words, and the map. Raises InvalidFieldError and PromptTooLongError."""
        ablation = request.auxiliary_ablation
        side = self._dimensions.vision.image_size
        segments = _segments(request.segments, side) if request.HasField("segments") else None
        sentences = request.auxiliary_sentences if request.HasField("auxiliary_sentences") else None
        if sentences is not None and request.verbalized_text:
            raise invalid("auxiliary_sentences", "alone", "the words came in verbalized_text as well")
        left_out = {_SENTENCES[one] for one in ablation.without if one in _SENTENCES}
        if left_out and sentences is None and request.verbalized_text:
            raise invalid(
                "auxiliary_ablation.without",
                "needs_sentences",
                "a sentence can be left out of auxiliary_sentences, not of verbalized_text",
            )
        if ablation.off:
            text = ""
        elif sentences is None:
            # With nothing found by anyone the published text is three spaces.
            text = request.verbalized_text or auxiliary_text({})
        else:
            given = {source: getattr(sentences, source) for source in _SENTENCES.values()}
            text = auxiliary_text(given, left_out)
        try:
            # They take no position: any number up to what the model knows positions for is compressed.
            words = self._chat.encode_words(text, limit=self._dimensions.language.max_positions)
        except PromptTooManyTokens as error:
            raise too_long(error.tokens, error.limit) from error
        if ablation.off or pb.AUXILIARY_SOURCE_COLOUR_MAP in ablation.without:
            return tuple(words), None
        return tuple(words), np.zeros((side, side), np.int32) if segments is None else segments

    def warm_up(self) -> pb.GenerateRequest:
        """See :class:`llm_server.prompting.Prompting`."""
        return pb.GenerateRequest(image=_grey(self._dimensions), verbalized_text="A wall.")


def _segments(grid: pb.SegmentGrid, side: int) -> NDArray[np.int32]:
    """(side, side) ids. Raises InvalidFieldError."""
    if (grid.height, grid.width) != (side, side):
        raise invalid(
            "segments", "size", f"the grid is {grid.height} x {grid.width}; this model takes {side} x {side}"
        )
    if len(grid.segment_ids) != 2 * side * side:
        raise invalid(
            "segments.segment_ids",
            "len",
            f"there are {len(grid.segment_ids)} bytes; {2 * side * side} are needed",
        )
    ids = np.frombuffer(grid.segment_ids, "<u2").astype(np.int32).reshape(side, side)
    if int(ids.max()) >= ENTRIES:
        raise invalid(
            "segments.segment_ids",
            "range",
            f"segment {int(ids.max())} has no colour; the largest is {ENTRIES - 1}",
        )
    return ids


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _grey(dimensions: ModelDimensions) -> image_pb2.Image:
    """A picture to warm up with."""
    buffer = io.BytesIO()
    side = dimensions.vision.image_size
    PillowImage.new("RGB", (side, side), (127, 127, 127)).save(buffer, "PNG")
    return image_pb2.Image(data=buffer.getvalue())

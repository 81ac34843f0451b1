"""MoAI (arXiv 2403.07508): what vision experts say is compressed to 64 tokens that mixers bring into some layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_server.models.aux_tokens import AuxiliaryText
from llm_server.models.compressor import Compressor
from llm_server.models.dimensions import ModelDimensions
from llm_server.models.gates import GateOverrides
from llm_server.models.image_rows import image_rows
from llm_server.models.internlm2 import KeyValueCache
from llm_server.models.mixer import Mixing, Tokens
from llm_server.models.prompt_batch import PromptBatch
from llm_server.models.vision_language import VisionLanguageModel


@dataclass(frozen=True)
class MoaiReading:
    """What reading a batch of prompts gave: ``states`` (B, L, H) after the final norm, and what the mixers did."""

    states: Tensor
    mixing: Mixing


class Moai(VisionLanguageModel):
    """MoAI of any size."""

    def __init__(self, dimensions: ModelDimensions) -> None:
        super().__init__(dimensions)
        if dimensions.compressor is None:
            raise ValueError("these are not the dimensions of a MoAI")
        self.moai_compressor = Compressor(dimensions.language.hidden, dimensions.compressor)

    def auxiliary_embeddings(self, text: AuxiliaryText, maps: Tensor | None) -> Tensor:
        """Embedded text, then the colour map's image tokens ``maps`` (B, N, H) if there are any: (B, A + N, H)."""
        words: Tensor = self.model.tok_embeddings(text.ids.to(self.device))
        return words if maps is None else torch.cat((words, maps.to(words.dtype)), dim=1)

    def auxiliary(self, text: AuxiliaryText, maps: Tensor | None, *, mask_padding: bool = True) -> Tensor:
        """Compressed auxiliary tokens (B, latents, H).

        They depend on the picture alone, not on the question: worth a cache. With auxiliary information switched off
        the text is the BOS token alone and ``maps`` is None.

        Args:
            text: token ids of the verbalised experts.
            maps: (B, N, H) image tokens of the colour map.
            mask_padding: keep the padding of shorter texts out. Without, as published, a text's tokens depend on the
                longest text of its batch.
        """
        media = self.auxiliary_embeddings(text, maps)
        valid = None
        if mask_padding and not bool(text.valid.all()):
            tail = torch.ones(len(media), media.shape[1] - text.ids.shape[1], dtype=torch.bool)
            valid = torch.cat((text.valid, tail), dim=1).to(self.device)
        tokens: Tensor = self.moai_compressor(media, valid)
        return tokens

    def read(
        self,
        batch: PromptBatch,
        features: Tensor | None,
        auxiliary: Tensor,
        *,
        overrides: Sequence[GateOverrides | None] = (),
        gate_dtype: torch.dtype = torch.float32,
        cache: KeyValueCache | None = None,
    ) -> MoaiReading:
        """Read a batch of whole prompts: mixers look at all of a prompt, so it cannot be read in parts.

        Args:
            batch: prompts.
            features: image tokens (K, N, H) of the prompts that have an image.
            auxiliary: (B, latents, H), see :meth:`auxiliary`.
            overrides: what each request changes about the gates; an empty sequence for nothing.
            gate_dtype: type of the gates' softmax; float16 as published, whatever the model's own type.
            cache: receives keys and values.

        Raises:
            ValueError: features do not match the image positions, or there are not as many overrides as prompts.
            GateOverrideError: an override names a layer without mixer.
        """
        if overrides and len(overrides) != len(batch.ids):
            raise ValueError(f"{len(overrides)} gate overrides for {len(batch.ids)} prompts")
        mixers = self.dimensions.mixer.layers if self.dimensions.mixer else ()
        for each in overrides:
            if each is not None:
                each.check(mixers)
        mixing = Mixing(
            auxiliary,
            Tokens.of(batch.image.to(self.device)),
            Tokens.of(batch.language.to(self.device)),
            overrides,
            gate_dtype,
        )
        rows = image_rows(batch.image)
        return MoaiReading(self.read_batch(batch, features, cache, rows, mixing), mixing)

"""What CoLLaVO and MoAI have in common: a vision tower, a connector, and a language model that reads both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llm_server.models.clip_tower import ClipTower
from llm_server.models.dimensions import ModelDimensions
from llm_server.models.image_rows import ImageRows
from llm_server.models.internlm2 import InternLM2, KeyValueCache
from llm_server.models.mixer import Mixing
from llm_server.models.prompt_batch import PromptBatch


class _Tower(nn.Module):
    """Spells the checkpoint's `vit.vision_tower.vision_model`."""

    def __init__(self, model: ClipTower) -> None:
        super().__init__()
        self.vision_model = model


class _Vit(nn.Module):
    def __init__(self, model: ClipTower) -> None:
        super().__init__()
        self.vision_tower = _Tower(model)


def connector(width: int, hidden: int) -> nn.Sequential:
    """Two layers with a GELU between, from the width of the vision tower to that of the language model."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))


class VisionLanguageModel(nn.Module):
    """A vision tower, a connector and InternLM2 with partial LoRA.

    A prompt is read by the subclass' ``read``, an answer is written by :meth:`write`, both over one cache.
    """

    def __init__(self, dimensions: ModelDimensions) -> None:
        super().__init__()
        self.dimensions = dimensions
        language, vision = dimensions.language, dimensions.vision
        self.model = InternLM2(language, dimensions.crayon, dimensions.mixer)
        self.output = nn.Linear(language.hidden, language.vocabulary, bias=False)
        self.vit = _Vit(ClipTower(vision))
        self.vision_proj = connector(vision.width, language.hidden)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.tok_embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the states: that of the embedding table."""
        return self.model.tok_embeddings.weight.dtype

    def clip_features(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, side, side) -> features of the vision tower (B, N, width)."""
        tower: ClipTower = self.vit.vision_tower.vision_model
        features: Tensor = tower(pixels.to(self.device, self.dtype))
        return features

    def image_features(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, side, side) -> image tokens (B, N, H)."""
        features: Tensor = self.vision_proj(self.clip_features(pixels))
        return features

    def embed(self, batch: PromptBatch, features: Tensor | None) -> Tensor:
        """Embeddings (B, L, H) of a batch, image tokens in their places.

        Args:
            batch: prompts.
            features: (K, N, H) of the K prompts that have an image, in their order; None if none has.

        Raises:
            ValueError: there are not as many features as image positions.
        """
        embeddings: Tensor = self.model.tok_embeddings(batch.ids.to(self.device))
        places = int(batch.image.sum())
        given = 0 if features is None else features.shape[0] * features.shape[1]
        if places != given:
            raise ValueError(f"{given} image features for {places} image positions")
        if features is not None:
            rows = batch.image.flatten().nonzero()[:, 0].to(self.device)
            embeddings = embeddings.flatten(0, 1).index_copy(0, rows, features.flatten(0, 1).to(self.dtype))
            embeddings = embeddings.view(*batch.ids.shape, -1)
        return embeddings

    def read_batch(
        self,
        batch: PromptBatch,
        features: Tensor | None,
        cache: KeyValueCache | None,
        image: ImageRows | None,
        mixing: Mixing | None,
    ) -> Tensor:
        """States (B, L, H) after the final norm, for a whole batch of prompts."""
        visible = batch.visible
        states: Tensor = self.model(
            self.embed(batch, features),
            positions=batch.positions.to(self.device),
            visible=None if visible is None else visible.to(self.device),
            cache=cache,
            image=image,
            mixing=mixing,
        )
        return states

    def write(
        self, tokens: Tensor, *, positions: Tensor, visible: Tensor | None, cache: KeyValueCache
    ) -> Tensor:
        """One decode step: no image rows, no mixers.

        Args:
            tokens: (B, 1) int64.
            positions: (B, 1) int64.
            visible: (B, 1, 1, L) bool, or None for all.
            cache: filled by ``read`` and earlier steps.

        Returns:
            Logits (B, V), float32.
        """
        states = self.model(
            self.model.tok_embeddings(tokens), positions=positions, visible=visible, cache=cache
        )
        return self.last_logits(states)

    def logits(self, states: Tensor) -> Tensor:
        """States (B, T, H) -> logits (B, T, V), float32."""
        out: Tensor = self.output(states).float()
        return out

    def last_logits(self, states: Tensor) -> Tensor:
        """Logits of the last position only: (B, T, H) -> (B, V), float32."""
        return self.logits(states[:, -1:])[:, 0]

"""CoLLaVO (arXiv 2402.11248): the crayon prompt enters every decoder layer at the image tokens, while a prompt is read.

The paper says that queries are added to the image features at every attention layer; the published code, followed
here, puts crayon features through a second low-rank pair beside wqkv, wo, w1 and w3.
"""

from __future__ import annotations

from torch import Tensor, nn

from llm_server.models.crayon import CrayonSwitches, checked_maps, crayon_embeddings
from llm_server.models.dimensions import CrayonDimensions, ModelDimensions
from llm_server.models.image_rows import image_rows
from llm_server.models.internlm2 import KeyValueCache
from llm_server.models.prompt_batch import PromptBatch
from llm_server.models.vision_language import VisionLanguageModel, connector

_ALL = CrayonSwitches()


class Collavo(VisionLanguageModel):
    """CoLLaVO of any size."""

    def __init__(self, dimensions: ModelDimensions) -> None:
        super().__init__(dimensions)
        if dimensions.crayon is None:
            raise ValueError("these are not the dimensions of a CoLLaVO")
        self._crayon: CrayonDimensions = dimensions.crayon
        width = dimensions.vision.width
        self.seg_prompt_embed = nn.Embedding(dimensions.crayon.classes, width)
        self.seg_num_embed = nn.Embedding(dimensions.crayon.numbers, width)
        self.vision_proj_for_seg = connector(width, dimensions.language.hidden)

    def crayon_embeddings(
        self,
        classes: Tensor,
        numbers: Tensor,
        *,
        switches: CrayonSwitches = _ALL,
        unknown_beyond: bool = True,
    ) -> Tensor | None:
        """Summed queries (B, N, width) of two maps (B, N), see :func:`checked_maps`; None with both switches off."""
        classes, numbers = checked_maps(
            classes, numbers, self._crayon, self.dimensions.vision.tokens, unknown_beyond=unknown_beyond
        )
        return crayon_embeddings(
            self.seg_prompt_embed,
            self.seg_num_embed,
            classes.to(self.device),
            numbers.to(self.device),
            switches,
        )

    def crayon_features(
        self,
        classes: Tensor,
        numbers: Tensor,
        *,
        switches: CrayonSwitches = _ALL,
        unknown_beyond: bool = True,
    ) -> Tensor | None:
        """Crayon features (B, N, H) of two maps; None with both switches off. Raises as :func:`checked_maps`."""
        queries = self.crayon_embeddings(classes, numbers, switches=switches, unknown_beyond=unknown_beyond)
        if queries is None:
            return None
        features: Tensor = self.vision_proj_for_seg(queries)
        return features

    def read(
        self,
        batch: PromptBatch,
        features: Tensor | None,
        *,
        crayon: Tensor | None = None,
        with_crayon: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Read a batch of prompts.

        Args:
            batch: prompts.
            features: image tokens (K, N, H) of the prompts that have an image.
            crayon: crayon features (M, N, H) of the prompts that have a crayon prompt.
            with_crayon: (B,) bool, which prompts these are; None for all that have an image.
            cache: receives keys and values.

        Returns:
            States (B, L, H) after the final norm.

        Raises:
            ValueError: features do not match the image positions.
        """
        rows = image_rows(batch.image, crayon, with_crayon)
        return self.read_batch(batch, features, cache, rows, None)

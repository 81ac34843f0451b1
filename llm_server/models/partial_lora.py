"""A linear layer with low-rank branches that only image tokens take (partial LoRA, InternLM-XComposer2, section 3.2).

    y = W x                          every row
    y += scale * B A x               image rows
    y += scale * B' A' c             image rows with a crayon prompt, c their crayon features (CoLLaVO)

In decode there is no image row: neither branch is computed.
"""

from __future__ import annotations

from torch import Tensor, nn

from llm_server.models.dimensions import CrayonDimensions
from llm_server.models.image_rows import ImageRows


class PartialLoraLinear(nn.Module):
    """Linear layer without bias, with partial LoRA.

    Args:
        inputs: width in.
        outputs: width out.
        rank: rank of the branch for image rows.
        scale: its alpha / rank.
        crayon: gives the layer CoLLaVO's second pair.
        crayon_applied: False for the layer whose second pair is in the checkpoint but never used (w2: crayon features
            do not have its width).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rank: int,
        scale: float,
        crayon: CrayonDimensions | None = None,
        *,
        crayon_applied: bool = True,
    ) -> None:
        super().__init__()
        self.Plora_main = nn.Linear(inputs, outputs, bias=False)
        self.Plora_A = nn.Linear(inputs, rank, bias=False)
        self.Plora_B = nn.Linear(rank, outputs, bias=False)
        self._scale = scale
        self._crayon_scale = None if crayon is None or not crayon_applied else crayon.scale
        if crayon is not None:
            self.Plora_seg_A = nn.Linear(inputs, crayon.rank, bias=False)
            self.Plora_seg_B = nn.Linear(crayon.rank, outputs, bias=False)

    def drop_unused(self) -> None:
        """Remove the second pair of a layer that never applies it."""
        if self._crayon_scale is None and hasattr(self, "Plora_seg_A"):
            del self.Plora_seg_A, self.Plora_seg_B

    def forward(self, states: Tensor, image: ImageRows | None) -> Tensor:
        """(B, T, inputs) -> (B, T, outputs); ``image`` None means that no row is an image token."""
        out: Tensor = self.Plora_main(states)
        if image is None:
            return out
        rows = out.view(-1, out.shape[-1])
        chosen = states.reshape(-1, states.shape[-1])[image.index]
        rows.index_add_(
            0, image.index, _scaled(self.Plora_B(self.Plora_A(chosen)), self._scale).to(rows.dtype)
        )
        if self._crayon_scale is not None and image.crayon is not None and image.crayon_index is not None:
            branch = self.Plora_seg_B(self.Plora_seg_A(image.crayon))
            rows.index_add_(0, image.crayon_index, _scaled(branch, self._crayon_scale).to(rows.dtype))
        return out


def _scaled(states: Tensor, scale: float) -> Tensor:
    return states if scale == 1.0 else states * scale

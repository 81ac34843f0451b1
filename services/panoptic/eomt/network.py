"""The network in torch: from a hub checkpoint, a local folder, or a configuration with random weights. Offline only.

EoMT (Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025) is a plain vision transformer
with mask queries among the tokens of its last blocks: no pixel decoder, no attention over several scales. The forward
pass is transformers' own; `EomtSegmenter` only leaves out the training loss, which needs scipy.

While it is trained, queries attend within their own intermediate masks, ever less often; a finished checkpoint has that
at probability 0 (`attn_mask_probs`), and then the graph is a transformer without any masks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EomtConfig
from transformers.models.eomt.modeling_eomt import (
    EomtEmbeddings,
    EomtForUniversalSegmentation,
    EomtLayer,
    EomtMaskHead,
    EomtPreTrainedModel,
    EomtScaleBlock,
)

from serving.weights import WeightsUnavailableError

CLASSES = 133


class EomtSegmenter(EomtForUniversalSegmentation):  # type: ignore[no-untyped-call]
    """`EomtForUniversalSegmentation` without its loss, under the same parameter names."""

    def __init__(self, config: EomtConfig) -> None:
        EomtPreTrainedModel.__init__(self, config)
        self.num_hidden_layers = config.num_hidden_layers
        self.embeddings = EomtEmbeddings(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.query = nn.Embedding(config.num_queries, config.hidden_size)
        self.layers = nn.ModuleList([EomtLayer(config) for _ in range(config.num_hidden_layers)])
        self.upscale_block = EomtScaleBlock(config)
        self.mask_head = EomtMaskHead(config)
        self.class_predictor = nn.Linear(config.hidden_size, (config.num_labels or CLASSES) + 1)
        side: Any = config.image_size
        self.grid_size = (side // config.patch_size, side // config.patch_size)
        self.attn_mask_probs = nn.Buffer(torch.ones(config.num_blocks))
        self.post_init()  # type: ignore[no-untyped-call]


class Exported(nn.Module):
    """(B, 3, H, W) normalised pixels -> class logits (B, Q, classes + 1) and mask logits (B, Q, H/4, W/4)."""

    def __init__(self, network: EomtSegmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """What the last layer says."""
        said: Any = self.network(pixel_values=pixel_values)
        return said.class_queries_logits, said.masks_queries_logits


def load_network(source: str | Path | EomtConfig, *, seed: int = 0) -> EomtSegmenter:
    """Hub name or local folder: the checkpoint (safetensors alone: a pickle is code). Configuration: random weights.

    Raises WeightsUnavailableError when there is no such checkpoint, when it lacks a parameter of the network, or when
    it is half trained: then queries are masked at random, and no graph says the same twice.
    """
    if isinstance(source, EomtConfig):
        return random_network(source, seed=seed)
    try:
        loaded: Any = EomtSegmenter.from_pretrained(
            str(source), use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, RuntimeError) as error:
        raise WeightsUnavailableError(str(source), f"it cannot be loaded: {error}") from error
    network, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise WeightsUnavailableError(
            str(source),
            f"it is no EoMT checkpoint: {len(missing)} parameters are not in it, such as {missing[0]}",
        )
    probabilities = network.attn_mask_probs.tolist()
    if any(0 < probability < 1 for probability in probabilities):
        raise WeightsUnavailableError(
            str(source),
            f"it masks queries at random: its attn_mask_probs are {probabilities}, not all 0 or 1",
        )
    return _for_inference(network)


def random_network(config: EomtConfig, *, seed: int = 0, masked: bool = False) -> EomtSegmenter:
    """Random weights under which the outputs are of the size of a trained network's and differ between queries.

    `masked`: with attention within intermediate masks, as in training; else as finished checkpoints are.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = EomtSegmenter(config)
        for name, parameter in network.named_parameters():
            _draw(name, parameter)
    network.attn_mask_probs.fill_(1.0 if masked else 0.0)
    return _for_inference(network)


def _for_inference(network: EomtSegmenter) -> EomtSegmenter:
    network.train(False)
    return network


@torch.no_grad()
def _draw(name: str, parameter: nn.Parameter) -> None:
    if name in {"query.weight", "embeddings.cls_token", "embeddings.register_tokens"}:
        parameter.normal_()
    elif name == "embeddings.position_embeddings.weight":
        parameter.normal_(std=0.5)
    elif name == "class_predictor.weight":
        parameter.normal_(std=3 / parameter.shape[1] ** 0.5)
    elif parameter.dim() >= 2:
        nn.init.xavier_uniform_(
            parameter, gain=1.5 if "upscale_block" in name or "mask_head" in name else 1.0
        )
    elif name.endswith(("weight", "lambda1")):
        parameter.uniform_(0.8, 1.2)
    else:
        parameter.normal_(std=0.1)


def tiny_config() -> EomtConfig:
    """The architecture at the least size that still has every part: 64 x 64 pixels, 20 queries, 133 classes."""
    return _config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=64,
        num_queries=20,
        num_blocks=2,
        mlp_ratio=2,
    )


def large_config() -> EomtConfig:
    """The size of `tue-mps/coco_panoptic_eomt_large_640`, for random weights."""
    return _config()


def _config(**sizes: int) -> EomtConfig:
    settings: dict[str, Any] = {"num_labels": CLASSES, **sizes}
    return EomtConfig(**settings)

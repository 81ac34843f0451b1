"""The network in torch: from a hub checkpoint, a local folder, or a configuration with random weights. Offline only.

transformers' own `Mask2FormerForUniversalSegmentation` brings a training loss that needs scipy; `Mask2FormerSegmenter`
is the same network under the same parameter names without it, and gives the two tensors that serving needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Mask2FormerConfig, SwinConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerModel, Mask2FormerPreTrainedModel

from serving.weights import WeightsUnavailableError

CLASSES = 133


class Mask2FormerSegmenter(Mask2FormerPreTrainedModel):  # type: ignore[no-untyped-call]
    """(B, 3, H, W) normalised pixels -> class logits (B, Q, classes + 1) and mask logits (B, Q, H/4, W/4)."""

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__(config)
        self.model = Mask2FormerModel(config)
        self.class_predictor = nn.Linear(config.hidden_dim, (config.num_labels or CLASSES) + 1)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """What the last layer of the decoder says."""
        said = self.model(pixel_values=pixel_values, output_hidden_states=True, return_dict=True)
        queries = said.transformer_decoder_intermediate_states[-1].transpose(0, 1)
        return self.class_predictor(queries), said.masks_queries_logits[-1]


def load_network(source: str | Path | Mask2FormerConfig, *, seed: int = 0) -> Mask2FormerSegmenter:
    """Hub name or local folder: the checkpoint (safetensors alone: a pickle is code). Configuration: random weights.

    Raises WeightsUnavailableError when there is no such checkpoint, or when it lacks a parameter of the network.
    """
    if isinstance(source, Mask2FormerConfig):
        return random_network(source, seed=seed)
    try:
        loaded: Any = Mask2FormerSegmenter.from_pretrained(
            str(source), use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, RuntimeError) as error:
        raise WeightsUnavailableError(str(source), f"it cannot be loaded: {error}") from error
    network, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise WeightsUnavailableError(
            str(source),
            f"it is no Mask2Former checkpoint: {len(missing)} parameters are not in it, such as {missing[0]}",
        )
    return _for_inference(network)


def random_network(config: Mask2FormerConfig, *, seed: int = 0) -> Mask2FormerSegmenter:
    """Random weights under which the outputs are of the size of a trained network's and differ between queries.

    The library's own start (small deviations, normalisations near zero) gives logits that all but tie: the least
    rounding would then decide which keys a query may attend to, and comparing two runs would tell nothing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Mask2FormerSegmenter(config)
        for name, parameter in network.named_parameters():
            _draw(name, parameter)
    return _for_inference(network)


def _for_inference(network: Mask2FormerSegmenter) -> Mask2FormerSegmenter:
    network.train(False)
    return network


@torch.no_grad()
def _draw(name: str, parameter: nn.Parameter) -> None:
    if "sampling_offsets.bias" in name:
        return  # the ring of offsets that the network starts from
    if "sampling_offsets" in name or "relative_position_bias_table" in name:
        parameter.normal_(std=0.1)
    elif "embed" in name and parameter.dim() == 2 and "embedder" not in name:
        parameter.normal_()
    elif name == "class_predictor.weight":
        parameter.normal_(std=3 / parameter.shape[1] ** 0.5)
    elif parameter.dim() >= 2:
        nn.init.xavier_uniform_(parameter)
    elif name.endswith("weight"):
        parameter.uniform_(0.8, 1.2)
    else:
        parameter.normal_(std=0.1)


def tiny_config() -> Mask2FormerConfig:
    """The architecture at the least size that still has every part: 64 x 64 pixels, 20 queries, 133 classes."""
    backbone = _swin(image=64, width=16, depths=[1, 1, 2, 1], heads=[1, 2, 2, 4], window=4)
    return _mask2former(
        backbone,
        num_queries=20,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        num_attention_heads=4,
        encoder_layers=2,
        encoder_feedforward_dim=64,
        decoder_layers=4,
        dim_feedforward=64,
    )


def swin_base_config() -> Mask2FormerConfig:
    """The size of `facebook/mask2former-swin-base-coco-panoptic`, for random weights."""
    backbone = _swin(image=384, width=128, depths=[2, 2, 18, 2], heads=[4, 8, 16, 32], window=12)
    return _mask2former(backbone, num_queries=100)


def swin_large_config() -> Mask2FormerConfig:
    """The size of `facebook/mask2former-swin-large-coco-panoptic`, for random weights."""
    backbone = _swin(image=384, width=192, depths=[2, 2, 18, 2], heads=[6, 12, 24, 48], window=12)
    return _mask2former(backbone, num_queries=200)


def _mask2former(backbone: SwinConfig, **sizes: int) -> Mask2FormerConfig:
    settings: dict[str, Any] = {"backbone_config": backbone, "num_labels": CLASSES, **sizes}
    return Mask2FormerConfig(**settings)


def _swin(*, image: int, width: int, depths: list[int], heads: list[int], window: int) -> SwinConfig:
    settings: dict[str, Any] = {
        "image_size": image,
        "embed_dim": width,
        "depths": depths,
        "num_heads": heads,
        "window_size": window,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    return SwinConfig(**settings)

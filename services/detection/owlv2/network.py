"""The network in torch: from a hub checkpoint, a local folder, or a configuration with random weights. Offline only.

transformers' `Owlv2ForObjectDetection` runs both towers at once, once for every image. `ImageHalf` and `TextHalf` are
the same network cut in two: what is said of a picture does not depend on the words, nor the words on the picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Owlv2Config, Owlv2ForObjectDetection

from serving.weights import WeightsUnavailableError


class ImageHalf(nn.Module):
    """(B, 3, S, S) normalised pixels -> what every one of P patches says, float32.

    Class embeddings (B, P, D) as the head projects them, not normalised; logit shift and scale (B, P), the scale after
    ELU + 1; boxes (B, P, 4), centre x, centre y, width, height as shares of the square; objectness logits (B, P).
    """

    def __init__(self, network: Owlv2ForObjectDetection) -> None:
        super().__init__()
        self._network = network

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Order of the outputs as above."""
        network: Any = self._network
        feature_map = network.image_embedder(pixel_values=pixel_values)[0]
        # A number of patches that the graph knows, whatever the batch.
        patches = feature_map.reshape(
            -1, network.num_patches_height * network.num_patches_width, feature_map.shape[-1]
        )
        head = network.class_head
        return (
            head.dense0(patches),
            head.logit_shift(patches)[..., 0],
            head.elu(head.logit_scale(patches))[..., 0] + 1,
            network.box_predictor(patches, feature_map),
            network.objectness_predictor(patches),
        )


class TextHalf(nn.Module):
    """(N, T) int64 token ids, padded with 0 behind the end token -> (N, D) query embeddings of unit length, float32.

    Attention is causal and the end token is read, so that what stands behind it plays no part: there is no mask.
    """

    def __init__(self, network: Owlv2ForObjectDetection) -> None:
        super().__init__()
        self._network = network

    def forward(self, input_ids: Tensor) -> Tensor:
        """The embedding that the class head compares patches with, before its own normalisation."""
        owlv2: Any = self._network.owlv2
        queries = owlv2.text_projection(owlv2.text_model(input_ids=input_ids).pooler_output)
        unit: Tensor = queries / torch.linalg.norm(queries, ord=2, dim=-1, keepdim=True)
        return unit


def load_network(source: str | Path | Owlv2Config, *, seed: int = 0) -> Owlv2ForObjectDetection:
    """Hub name or local folder: the checkpoint (safetensors alone: a pickle is code). Configuration: random weights.

    Raises WeightsUnavailableError when there is no such checkpoint, or when it lacks a parameter of the network.
    """
    if isinstance(source, Owlv2Config):
        return random_network(source, seed=seed)
    try:
        loaded: Any = Owlv2ForObjectDetection.from_pretrained(
            str(source), use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsUnavailableError(str(source), f"it cannot be loaded: {error}") from error
    network, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise WeightsUnavailableError(
            str(source),
            f"it is no OWLv2 checkpoint: {len(missing)} parameters are not in it, such as {missing[0]}",
        )
    return _for_inference(network)


def random_network(config: Owlv2Config, *, seed: int = 0) -> Owlv2ForObjectDetection:
    """Random weights under which outputs are of a trained network's size and differ between patches and words.

    The library's own start gives embeddings that all but coincide: the best word of a patch would then be a matter of
    rounding, and comparing two runs would tell nothing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Owlv2ForObjectDetection(config)
        for name, parameter in network.named_parameters():
            _draw(name, parameter)
    return _for_inference(network)


def _for_inference(network: Owlv2ForObjectDetection) -> Owlv2ForObjectDetection:
    network.train(False)
    return network


@torch.no_grad()
def _draw(name: str, parameter: nn.Parameter) -> None:
    if name.endswith("logit_scale"):
        return  # of the contrastive training: detection does not read it
    if "embedding" in name and "patch" not in name:
        parameter.normal_()
    elif name in ("class_head.logit_scale.weight", "class_head.logit_shift.weight"):
        parameter.normal_(std=parameter.shape[1] ** -0.5)
    elif name == "class_head.logit_scale.bias":
        parameter.fill_(4)
    elif parameter.dim() >= 2:
        nn.init.xavier_uniform_(parameter, gain=1.4)
    elif name.endswith("weight"):
        parameter.uniform_(0.8, 1.2)
    else:
        parameter.normal_(std=0.1)


def tiny_config() -> Owlv2Config:
    """The architecture at the least size that still has every part: 64 x 64 pixels, 16 patches, 16 tokens."""
    return _owlv2(
        vision={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"image_size": 64, "patch_size": 16},
        text={"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"vocab_size": 2048, "bos_token_id": 2046, "eos_token_id": 2047},
        projection_dim=24,
    )


def base_config() -> Owlv2Config:
    """The size of `google/owlv2-base-patch16-ensemble` (960 x 960 pixels, 3,600 patches), for random weights."""
    return _owlv2(vision={"image_size": 960}, text={}, projection_dim=512)


def _owlv2(*, vision: dict[str, int], text: dict[str, int], projection_dim: int) -> Owlv2Config:
    settings: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text,
        "projection_dim": projection_dim,
    }
    return Owlv2Config(**settings)

"""The network in torch: DETR's backbone, encoder and decoder with a head for each part of a triplet. Offline only.

PSGTR (Yang et al., "Panoptic Scene Graph Generation", ECCV 2022; the weights come from OpenPSG) is DETR with 100
queries, each of which answers with a subject, an object and the predicate between them: two classes, two boxes, two
masks, one relation. Backbone, encoder, decoder and the mask heads' layers are transformers' own modules for DETR, so
nothing of mmcv, mmdet or detectron2 is needed; `checkpoint` maps the published parameter names onto them.

The mask heads compute what DETR's do in another order: what does not depend on the query (the convolution of the
picture's own features, the adapters of the finer maps) is computed once a picture and not once a query.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DetrConfig, ResNetConfig
from transformers.models.detr.modeling_detr import (
    DetrMaskHeadSmallConv,
    DetrMHAttentionMap,
    DetrMLPPredictionHead,
    DetrModel,
    DetrPreTrainedModel,
)

from services.scene_graph.predicates import PREDICATES
from serving.coco import COCO_PANOPTIC

CLASSES = len(COCO_PANOPTIC)


class Triplets(NamedTuple):
    """What Q queries say of B pictures, float32.

    `subject_logits`, `object_logits`: (B, Q, 134), the last column "no object". `relation_logits`: (B, Q, 57), the
    *first* column "no relation". Boxes: (B, Q, 4) centre x, centre y, width, height in 0-1 of the picture without its
    padding. Masks: (B, Q, H / 4, W / 4) logits over the padded input.
    """

    subject_logits: Tensor
    object_logits: Tensor
    relation_logits: Tensor
    subject_boxes: Tensor
    object_boxes: Tensor
    subject_masks: Tensor
    object_masks: Tensor


class PsgtrNetwork(DetrPreTrainedModel):  # type: ignore[no-untyped-call]
    """(B, 3, H, W) normalised pixels and (B, H, W) float mask, 0 where the picture was padded -> `Triplets`."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__(config)
        width, heads = config.d_model, config.encoder_attention_heads
        self.model = DetrModel(config)
        channels = self.model.backbone.intermediate_channel_sizes[::-1][-3:]
        self.subject_classifier = nn.Linear(width, CLASSES + 1)
        self.object_classifier = nn.Linear(width, CLASSES + 1)
        self.relation_classifier = nn.Linear(width, len(PREDICATES) + 1)
        self.subject_box_head = DetrMLPPredictionHead(width, width, 4, 3)  # type: ignore[no-untyped-call]
        self.object_box_head = DetrMLPPredictionHead(width, width, 4, 3)  # type: ignore[no-untyped-call]
        self.subject_attention = DetrMHAttentionMap(width, heads)
        self.object_attention = DetrMHAttentionMap(width, heads)
        self.subject_mask_head = DetrMaskHeadSmallConv(width + heads, channels, width)
        self.object_mask_head = DetrMaskHeadSmallConv(width + heads, channels, width)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> Triplets:
        """What the last layer of the decoder says."""
        maps = self.model.backbone(pixel_values, pixel_mask)
        coarsest, inside = maps[-1]
        projected = self.model.input_projection(coarsest)
        places = self.model.position_embedding(
            shape=coarsest.shape, device=pixel_values.device, dtype=pixel_values.dtype, mask=inside
        )
        places, flat_inside = _as_sequence(places), inside.flatten(1)
        memory = self.model.encoder(
            inputs_embeds=_as_sequence(projected),
            attention_mask=flat_inside,
            spatial_position_embeddings=places,
        ).last_hidden_state
        queries = self.model.query_position_embeddings.weight.unsqueeze(0).expand(
            pixel_values.shape[0], -1, -1
        )
        states = self.model.decoder(
            inputs_embeds=torch.zeros_like(queries),
            attention_mask=None,
            spatial_position_embeddings=places,
            object_queries_position_embeddings=queries,
            encoder_hidden_states=memory,
            encoder_attention_mask=flat_inside,
        ).last_hidden_state

        memory = memory.transpose(1, 2).reshape(projected.shape)
        outside = torch.zeros_like(inside, dtype=memory.dtype).masked_fill(
            ~inside, torch.finfo(memory.dtype).min
        )[:, None, None]
        finer = [maps[2][0], maps[1][0], maps[0][0]]
        subjects = self.subject_attention(states, memory, attention_mask=outside)
        objects = self.object_attention(states, memory, attention_mask=outside)
        return Triplets(
            self.subject_classifier(states),
            self.object_classifier(states),
            self.relation_classifier(states),
            self.subject_box_head(states).sigmoid(),
            self.object_box_head(states).sigmoid(),
            draw_masks(self.subject_mask_head, projected, subjects, finer),
            draw_masks(self.object_mask_head, projected, objects, finer),
        )


def draw_masks(head: Any, features: Tensor, attention: Tensor, finer: list[Tensor]) -> Tensor:
    """What `head`, a `DetrMaskHeadSmallConv`, would say of the features repeated per query, without repeating them.

    `features`: (B, C, h, w). `attention`: (B, Q, heads, h, w). `finer`: three maps (B, C', h', w'), coarse to fine.
    Returns (B, Q, h', w') logits at the finest size. The first convolution is linear, so that of the features and that
    of the attention are computed apart and added.
    """
    queries, channels, first = attention.shape[1], features.shape[1], head.conv1.conv
    shared = functional.conv2d(features, first.weight[:, :channels], first.bias, padding=1)
    own = functional.conv2d(attention.flatten(0, 1), first.weight[:, channels:], padding=1)
    drawn: Tensor = head.conv1.activation(head.conv1.norm(_add(own, shared, queries)))
    drawn = head.conv2(drawn)
    for stage, fine in zip(head.fpn_stages, finer, strict=True):
        adapted = stage.fpn_adapter(fine)
        drawn = functional.interpolate(drawn, size=adapted.shape[-2:], mode="nearest")
        drawn = stage.refine(_add(drawn, adapted, queries))
    drawn = head.output_conv(drawn)
    return drawn.reshape(-1, queries, drawn.shape[-2], drawn.shape[-1])


def _add(own: Tensor, shared: Tensor, queries: int) -> Tensor:
    """(B * Q, C, h, w) of the queries plus (B, C, h, w) of the pictures."""
    by_picture = own.reshape(-1, queries, own.shape[1], own.shape[2], own.shape[3])
    return (by_picture + shared[:, None]).flatten(0, 1)


def _as_sequence(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h * w, C)."""
    return maps.flatten(2).transpose(1, 2)


def random_network(config: DetrConfig, *, seed: int = 0) -> PsgtrNetwork:
    """Random weights under which queries differ and logits are of the size of a trained network's.

    The library's own start gives queries that all but tie, and comparing two runs of those tells nothing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PsgtrNetwork(config)
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            _draw(name, tensor)
    network.train(False)
    return network


@torch.no_grad()
def _draw(name: str, tensor: Tensor) -> None:
    if name.endswith("running_var"):
        tensor.uniform_(0.5, 1.5)
    elif name.endswith("query_position_embeddings.weight"):
        tensor.normal_()
    elif name.endswith("classifier.weight"):
        tensor.normal_(std=3 / tensor.shape[1] ** 0.5)
    elif tensor.dim() == 4:
        nn.init.kaiming_uniform_(tensor, nonlinearity="relu")
    elif tensor.dim() == 2:
        nn.init.xavier_uniform_(tensor)
    elif name.endswith("weight"):
        tensor.uniform_(0.8, 1.2)
    else:
        tensor.normal_(std=0.1)


def r50_config() -> DetrConfig:
    """The size of the published network: ResNet-50, 6 + 6 layers of width 256, 100 queries."""
    return psgtr_config(backbone_config())


def tiny_config() -> DetrConfig:
    """The architecture at the least size that still has every part; any picture from 32 pixels a side."""
    return psgtr_config(
        backbone_config(embedding_size=8, hidden_sizes=[16, 24, 32, 48], depths=[2, 1, 1, 1]),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=20,
    )


def backbone_config(**sizes: Any) -> ResNetConfig:
    """A ResNet of bottleneck blocks, of ResNet-50's sizes unless told otherwise, that gives all four stages."""
    settings: dict[str, Any] = {"out_features": ["stage1", "stage2", "stage3", "stage4"], **sizes}
    return ResNetConfig(**settings)


def psgtr_config(backbone: ResNetConfig, *, heads: int = 8, **sizes: int) -> DetrConfig:
    """DETR's configuration over `backbone`, which must give all four stages. `heads`: of every attention."""
    settings: dict[str, Any] = {
        "backbone_config": backbone,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        # Written out, the attention exports to plain operators.
        "attn_implementation": "eager",
        **sizes,
    }
    return DetrConfig(**settings)

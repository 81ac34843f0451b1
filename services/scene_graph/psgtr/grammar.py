"""The names of OpenPSG's parameters, and which of ours each becomes.

The published `psgtr_r50_epoch_60.pth` was saved by mmdetection. Its names are those of mmdetection's ResNet
(`backbone.layer1.0.conv1.weight`), of mmcv's transformer (`bbox_head.transformer.encoder.layers.0.attentions.0.attn.
in_proj_weight`: queries, keys and values in one matrix, one above the other) and of OpenPSG's heads
(`bbox_head.sub_mask_head.lay1.weight`). Pure: names and numbers, no tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Where a parameter of ours is in a checkpoint: the name there, and which third of its rows (None: all)."""

    name: str
    third: int | None = None


class _Names:
    def __init__(self) -> None:
        self.found: dict[str, Published] = {}

    def copy(self, ours: str, theirs: str, *kinds: str) -> None:
        for kind in kinds or ("weight", "bias"):
            self.found[f"{ours}.{kind}"] = Published(f"{theirs}.{kind}")

    def convolution(self, ours: str, theirs: str) -> None:
        self.copy(ours, theirs, "weight")

    def batch_norm(self, ours: str, theirs: str) -> None:
        self.copy(ours, theirs, "weight", "bias", "running_mean", "running_var")

    def attention(self, ours: str, theirs: str) -> None:
        for third, part in enumerate("qkv"):
            for kind in ("weight", "bias"):
                self.found[f"{ours}.{part}_proj.{kind}"] = Published(f"{theirs}.attn.in_proj_{kind}", third)
        self.copy(f"{ours}.o_proj", f"{theirs}.attn.out_proj")

    def feed_forward(self, ours: str, theirs: str) -> None:
        self.copy(f"{ours}.mlp.fc1", f"{theirs}.ffns.0.layers.0.0")
        self.copy(f"{ours}.mlp.fc2", f"{theirs}.ffns.0.layers.1")


def published_names(depths: Sequence[int], encoder_layers: int, decoder_layers: int) -> dict[str, Published]:
    """Our parameter and buffer names to the published ones. `depths`: blocks of each of the backbone's four stages."""
    names = _Names()
    _backbone(names, depths)
    names.copy("model.input_projection", "bbox_head.input_proj")
    names.copy("model.query_position_embeddings", "bbox_head.query_embed", "weight")
    _transformer(names, encoder_layers, decoder_layers)
    names.copy("relation_classifier", "bbox_head.rel_cls_embed")
    for ours, theirs in (("subject", "bbox_head.sub"), ("object", "bbox_head.obj")):
        names.copy(f"{ours}_classifier", f"{theirs}_cls_embed")
        for layer in range(3):
            names.copy(f"{ours}_box_head.layers.{layer}", f"{theirs}_box_embed.layers.{layer}")
        for part in "qk":
            names.copy(f"{ours}_attention.{part}_proj", f"{theirs}_bbox_attention.{part}_linear")
        _mask_head(names, f"{ours}_mask_head", f"{theirs}_mask_head")
    return names.found


def _backbone(names: _Names, depths: Sequence[int]) -> None:
    backbone = "model.backbone.model"
    names.convolution(f"{backbone}.embedder.embedder.convolution", "backbone.conv1")
    names.batch_norm(f"{backbone}.embedder.embedder.normalization", "backbone.bn1")
    for stage, depth in enumerate(depths):
        for block in range(depth):
            ours = f"{backbone}.encoder.stages.{stage}.layers.{block}"
            theirs = f"backbone.layer{stage + 1}.{block}"
            for layer in range(3):
                names.convolution(f"{ours}.layer.{layer}.convolution", f"{theirs}.conv{layer + 1}")
                names.batch_norm(f"{ours}.layer.{layer}.normalization", f"{theirs}.bn{layer + 1}")
            if block == 0:
                names.convolution(f"{ours}.shortcut.convolution", f"{theirs}.downsample.0")
                names.batch_norm(f"{ours}.shortcut.normalization", f"{theirs}.downsample.1")


def _transformer(names: _Names, encoder_layers: int, decoder_layers: int) -> None:
    for layer in range(encoder_layers):
        ours, theirs = f"model.encoder.layers.{layer}", f"bbox_head.transformer.encoder.layers.{layer}"
        names.attention(f"{ours}.self_attn", f"{theirs}.attentions.0")
        names.feed_forward(ours, theirs)
        names.copy(f"{ours}.self_attn_layer_norm", f"{theirs}.norms.0")
        names.copy(f"{ours}.final_layer_norm", f"{theirs}.norms.1")
    for layer in range(decoder_layers):
        ours, theirs = f"model.decoder.layers.{layer}", f"bbox_head.transformer.decoder.layers.{layer}"
        names.attention(f"{ours}.self_attn", f"{theirs}.attentions.0")
        names.attention(f"{ours}.encoder_attn", f"{theirs}.attentions.1")
        names.feed_forward(ours, theirs)
        names.copy(f"{ours}.self_attn_layer_norm", f"{theirs}.norms.0")
        names.copy(f"{ours}.encoder_attn_layer_norm", f"{theirs}.norms.1")
        names.copy(f"{ours}.final_layer_norm", f"{theirs}.norms.2")
    names.copy("model.decoder.layernorm", "bbox_head.transformer.decoder.post_norm")


def _mask_head(names: _Names, ours: str, theirs: str) -> None:
    for layer in (1, 2):
        names.copy(f"{ours}.conv{layer}.conv", f"{theirs}.lay{layer}")
        names.copy(f"{ours}.conv{layer}.norm", f"{theirs}.gn{layer}")
    for stage in range(3):
        names.copy(f"{ours}.fpn_stages.{stage}.fpn_adapter", f"{theirs}.adapter{stage + 1}")
        names.copy(f"{ours}.fpn_stages.{stage}.refine.conv", f"{theirs}.lay{stage + 3}")
        names.copy(f"{ours}.fpn_stages.{stage}.refine.norm", f"{theirs}.gn{stage + 3}")
    names.copy(f"{ours}.output_conv", f"{theirs}.out_lay")

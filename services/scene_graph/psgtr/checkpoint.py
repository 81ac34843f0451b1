"""OpenPSG's checkpoints into our network, without mmcv, mmdet or detectron2. Offline only: loads torch.

A `.pth` is a pickle, and a pickle is code: only torch's restricted reader is used, and a file that needs more than
tensors and plain containers is refused. Sizes are read off the tensors, so the R-101 variant and small random networks
load by the same code as the published R-50. What a file lacks or has too much is listed, and nothing is loaded then.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DetrConfig

from services.scene_graph.psgtr.grammar import Published, published_names
from services.scene_graph.psgtr.network import PsgtrNetwork, backbone_config, psgtr_config
from serving.weights import WeightsUnavailableError

_SHOWN = 5
_COUNTER = "num_batches_tracked"
"""Batch normalisation counts its training steps; inference has no use for that."""


@dataclass(frozen=True)
class Mismatch:
    """How a checkpoint differs from the grammar: published names, sorted.

    `misshapen`: name, shape found, shape wanted.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        shapes = [f"{name} {list(have)}, not {list(want)}" for name, have, want in self.misshapen]
        kinds = (("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", shapes))
        return "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds if names)


def load_checkpoint(path: Path, *, sha256: str | None = None) -> PsgtrNetwork:
    """The network of a `.pth` or `.safetensors` file with the published names.

    `sha256`: what the file must hash to, hexadecimal; checked before a byte of it is read as anything else. Raises
    WeightsUnavailableError when the file is not there, is another one, holds more than tensors, or does not fit; its
    text names what is missing and what is unexpected.
    """
    if not path.is_file():
        raise WeightsUnavailableError(str(path), "there is no such file")
    if sha256 is not None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256.lower():
            raise WeightsUnavailableError(str(path), f"its SHA-256 is {found}, not {sha256.lower()}")
    state = _tensors(path)
    try:
        config = config_of(state)
    except KeyError as error:
        raise WeightsUnavailableError(str(path), f"it is no PSGTR checkpoint: it has no {error}") from None
    network = PsgtrNetwork(config)
    ours, mismatch = translate(state, network.state_dict())
    if mismatch:
        raise WeightsUnavailableError(str(path), f"it is no PSGTR checkpoint: {mismatch}")
    network.load_state_dict(ours)
    network.train(False)
    return network


def translate(
    published: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Mismatch]:
    """`published` under the names of `wanted`, our state dict, and how the two differ.

    Where they differ, what fits is returned all the same. Batch counters may be there or not.
    """
    names = names_for(wanted)
    state: dict[str, Tensor] = {}
    misshapen = set()
    for ours, source in names.items():
        tensor, want = published.get(source.name), tuple(wanted[ours].shape)
        if tensor is None:
            continue
        whole = want if source.third is None else (3 * want[0], *want[1:])
        if tuple(tensor.shape) != whole:
            misshapen.add((source.name, tuple(tensor.shape), whole))
            continue
        # A copy, so that three parameters do not share, and keep alive, one matrix.
        state[ours] = (tensor if source.third is None else tensor.chunk(3)[source.third]).clone()
    known = {source.name for source in names.values()}
    unexpected = [name for name in published if name not in known and not name.endswith(_COUNTER)]
    return state, Mismatch(
        tuple(sorted(known - published.keys())), tuple(sorted(unexpected)), tuple(sorted(misshapen))
    )


def names_for(ours: Mapping[str, Any]) -> dict[str, Published]:
    """The published names of our state dict."""
    return published_names(
        [_count(ours, f"model.backbone.model.encoder.stages.{stage}.layers.") for stage in range(4)],
        _count(ours, "model.encoder.layers."),
        _count(ours, "model.decoder.layers."),
    )


def config_of(published: Mapping[str, Tensor]) -> DetrConfig:
    """The sizes of a published state dict. Raises KeyError for a name without which they cannot be told."""
    head = "bbox_head."
    queries, width = published[f"{head}query_embed.weight"].shape
    layers = f"{head}transformer"
    stages = range(1, 5)
    backbone = backbone_config(
        embedding_size=published["backbone.conv1.weight"].shape[0],
        hidden_sizes=[published[f"backbone.layer{stage}.0.conv3.weight"].shape[0] for stage in stages],
        depths=[_count(published, f"backbone.layer{stage}.") for stage in stages],
    )
    return psgtr_config(
        backbone,
        d_model=width,
        num_queries=queries,
        encoder_layers=_count(published, f"{layers}.encoder.layers."),
        decoder_layers=_count(published, f"{layers}.decoder.layers."),
        encoder_ffn_dim=published[f"{layers}.encoder.layers.0.ffns.0.layers.0.0.weight"].shape[0],
        decoder_ffn_dim=published[f"{layers}.decoder.layers.0.ffns.0.layers.0.0.weight"].shape[0],
        # The mask head's first layer takes the features and one attention map a head.
        heads=published[f"{head}sub_mask_head.lay1.weight"].shape[0] - width,
    )


def _tensors(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            loaded: Any = load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsUnavailableError(str(path), f"it cannot be read: {error}") from error
    else:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            reason = str(error).splitlines()[0]
            raise WeightsUnavailableError(
                str(path), f"it holds more than tensors, and code is not loaded: {reason}"
            ) from error
        except (RuntimeError, OSError, EOFError, ValueError) as error:
            raise WeightsUnavailableError(str(path), f"it cannot be read: {error}") from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsUnavailableError(str(path), "it holds no state dict")
    return loaded


def _count(names: Mapping[str, Any], prefix: str) -> int:
    """How many numbered parts there are under `prefix`."""
    return len({name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix)})


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")

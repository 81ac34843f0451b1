"""OpenPSG's parameter names: every one has its place, and what a file lacks or has too much is said by name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from services.scene_graph.psgtr.grammar import published_names
from serving.weights import WeightsUnavailableError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

HEAD = "bbox_head"
ENCODER = f"{HEAD}.transformer.encoder.layers"
# A name of each kind with the shape it has in the published R-50, read off OpenPSG's and mmdetection's modules.
R50 = {
    "backbone.conv1.weight": (64, 3, 7, 7),
    "backbone.bn1.running_var": (64,),
    "backbone.layer1.0.downsample.0.weight": (256, 64, 1, 1),
    "backbone.layer3.5.conv2.weight": (256, 256, 3, 3),
    "backbone.layer4.2.bn3.running_mean": (2048,),
    f"{HEAD}.input_proj.weight": (256, 2048, 1, 1),
    f"{HEAD}.query_embed.weight": (100, 256),
    f"{ENCODER}.5.attentions.0.attn.in_proj_weight": (768, 256),
    f"{ENCODER}.0.ffns.0.layers.0.0.weight": (2048, 256),
    f"{ENCODER}.0.ffns.0.layers.1.bias": (256,),
    f"{ENCODER}.0.norms.1.weight": (256,),
    f"{HEAD}.transformer.decoder.layers.5.attentions.1.attn.out_proj.bias": (256,),
    f"{HEAD}.transformer.decoder.layers.0.norms.2.bias": (256,),
    f"{HEAD}.transformer.decoder.post_norm.weight": (256,),
    f"{HEAD}.sub_cls_embed.weight": (134, 256),
    f"{HEAD}.obj_cls_embed.bias": (134,),
    f"{HEAD}.rel_cls_embed.weight": (57, 256),
    f"{HEAD}.sub_box_embed.layers.2.weight": (4, 256),
    f"{HEAD}.obj_bbox_attention.k_linear.weight": (256, 256),
    f"{HEAD}.sub_mask_head.lay1.weight": (264, 264, 3, 3),
    f"{HEAD}.sub_mask_head.gn5.weight": (16,),
    f"{HEAD}.obj_mask_head.adapter1.weight": (128, 1024, 1, 1),
    f"{HEAD}.obj_mask_head.adapter3.weight": (32, 256, 1, 1),
    f"{HEAD}.obj_mask_head.out_lay.weight": (1, 16, 3, 3),
}


@pytest.fixture(scope="module")
def network() -> Any:
    from services.scene_graph.psgtr.network import random_network, tiny_config

    return random_network(tiny_config(), seed=1)


@pytest.fixture
def published(network: Any) -> dict[str, Any]:
    """The tiny network's weights under the published names: the thirds of each attention put back together."""
    from services.scene_graph.psgtr.checkpoint import names_for

    ours = network.state_dict()
    parts: dict[str, dict[int, Any]] = {}
    for name, source in names_for(ours).items():
        parts.setdefault(source.name, {})[source.third or 0] = ours[name]
    state = {name: torch.cat([rows[third] for third in sorted(rows)]) for name, rows in parts.items()}
    return state | {"backbone.bn1.num_batches_tracked": torch.tensor(7)}


def save(path: Path, state: Any) -> Path:
    torch.save({"meta": {"epoch": 60, "mmcv_version": "1.4.3"}, "state_dict": state}, path)
    return path


def test_every_parameter_of_the_full_network_has_one_published_place() -> None:
    from services.scene_graph.psgtr.network import PsgtrNetwork, r50_config

    with torch.device("meta"):
        ours = PsgtrNetwork(r50_config()).state_dict()
    names = published_names([3, 4, 6, 3], 6, 6)
    assert names.keys() == ours.keys()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, source in names.items():
        rows = (3 if source.third is not None else 1) * ours[name].shape[0]
        shape = (rows, *ours[name].shape[1:])
        assert shapes.setdefault(source.name, shape) == shape
    assert {name: shapes[name] for name in R50} == R50
    # Two thirds of an attention's three matrices are no names of their own.
    assert len(set(names.values())) == len(names)
    assert len(names) - len(shapes) == 2 * 2 * (6 + 2 * 6)


def test_a_checkpoint_is_loaded_as_it_was_saved(
    network: Any, published: dict[str, Any], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    from services.scene_graph.psgtr.checkpoint import load_checkpoint

    save_file(published, tmp_path / "tiny.safetensors")
    for path in (save(tmp_path / "tiny.pth", published), tmp_path / "tiny.safetensors"):
        loaded = load_checkpoint(path)
        assert not loaded.training
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_missing_unexpected_and_misshapen_are_listed(
    network: Any, published: dict[str, Any], tmp_path: Path
) -> None:
    from services.scene_graph.psgtr.checkpoint import load_checkpoint, translate

    del published[f"{HEAD}.rel_cls_embed.bias"]
    del published[f"{ENCODER}.1.attentions.0.attn.in_proj_weight"]
    published[f"{HEAD}.relation_decoder.weight"] = torch.zeros(2)
    published[f"{HEAD}.sub_cls_embed.weight"] = torch.zeros(81, 32)
    state, mismatch = translate(published, network.state_dict())
    assert mismatch.missing == (
        f"{HEAD}.rel_cls_embed.bias",
        f"{ENCODER}.1.attentions.0.attn.in_proj_weight",
    )
    assert mismatch.unexpected == (f"{HEAD}.relation_decoder.weight",)
    assert mismatch.misshapen == ((f"{HEAD}.sub_cls_embed.weight", (81, 32), (134, 32)),)
    assert len(state) == len(network.state_dict()) - 1 - 3 - 1
    with pytest.raises(WeightsUnavailableError) as refused:
        load_checkpoint(save(tmp_path / "other.pth", published))
    for told in (
        "2 missing",
        "rel_cls_embed.bias",
        "1 unexpected",
        "relation_decoder",
        "[81, 32], not [134, 32]",
    ):
        assert told in str(refused.value)


def test_another_network_is_refused(tmp_path: Path) -> None:
    from services.scene_graph.psgtr.checkpoint import load_checkpoint

    with pytest.raises(WeightsUnavailableError, match="query_embed"):
        load_checkpoint(save(tmp_path / "other.pth", {"backbone.conv1.weight": torch.zeros(4, 3, 7, 7)}))
    with pytest.raises(WeightsUnavailableError, match="no state dict"):
        load_checkpoint(save(tmp_path / "list.pth", [1, 2]))


class Mischief:
    """What a pickle could do: here it only leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, published: dict[str, Any]) -> None:
    from services.scene_graph.psgtr.checkpoint import load_checkpoint

    trace = tmp_path / "trace"
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": published, "meta": Mischief(trace)}, path)
    with pytest.raises(WeightsUnavailableError, match="code is not loaded"):
        load_checkpoint(path)
    bare = tmp_path / "bare.pth"
    bare.write_bytes(pickle.dumps(Mischief(trace), protocol=2))
    with pytest.raises(WeightsUnavailableError, match=r"bare\.pth"):
        load_checkpoint(bare)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["torn.pth", "torn.safetensors"])
def test_a_torn_file_is_refused(name: str, tmp_path: Path, published: dict[str, Any]) -> None:
    from services.scene_graph.psgtr.checkpoint import load_checkpoint

    whole = save(tmp_path / "whole.pth", published).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        torn = tmp_path / name
        torn.write_bytes(content)
        with pytest.raises(WeightsUnavailableError, match=name):
            load_checkpoint(torn)


def test_only_the_expected_file_is_read(tmp_path: Path, published: dict[str, Any]) -> None:
    import hashlib

    from services.scene_graph.psgtr.checkpoint import load_checkpoint

    path = save(tmp_path / "tiny.pth", published)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_checkpoint(path, sha256=digest.upper()) is not None
    with pytest.raises(WeightsUnavailableError, match=f"its SHA-256 is {digest}"):
        load_checkpoint(path, sha256="0" * 64)

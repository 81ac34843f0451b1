"""PSGTR: the network under OpenPSG's names against a plain one, and the exported graph against the network.

`Plain` is the published architecture written down once more from torch's and torchvision's own layers, under the
published parameter names. If a tensor went to the wrong place on its way into our network, the two would disagree.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.scene_graph.export import export_psgtr, main
from serving.engine import OnnxRuntimeEngine
from serving.weights import WeightsUnavailableError

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

TOLERANCE = 1e-4
SEED = 5
WIDTH, HEADS, QUERIES = 32, 8, 12


class Attention(nn.Module):
    """mmcv wraps torch's attention in a module with one member, `attn`."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU()), nn.Linear(64, WIDTH))


class Layer(nn.Module):
    """One of the encoder (one attention) or of the decoder (two); every step is added and then normalised."""

    def __init__(self, attentions: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(Attention() for _ in range(attentions))
        self.ffns = nn.ModuleList([FeedForward()])
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(attentions + 1))

    def forward(self, x: Any, places: Any, memory: Any, memory_places: Any, outside: Any) -> Any:
        attentions: Any = self.attentions
        feed_forward: Any = self.ffns[0]
        own = attentions[0].attn
        mask = outside if len(attentions) == 1 else None
        x = self.norms[0](x + own(x + places, x + places, x, key_padding_mask=mask)[0])
        if len(attentions) == 2:
            other = attentions[1].attn
            said = other(x + places, memory + memory_places, memory, key_padding_mask=outside)[0]
            x = self.norms[1](x + said)
        return self.norms[-1](x + feed_forward.layers(x))


class Stack(nn.Module):
    def __init__(self, attentions: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(attentions) for _ in range(2))
        if attentions == 2:
            self.post_norm = nn.LayerNorm(WIDTH)


class Boxes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, size) for size in (WIDTH, WIDTH, 4))

    def forward(self, x: Any) -> Any:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x).sigmoid()


class AttentionMap(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_linear, self.k_linear = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, queries: Any, memory: Any, outside: Any, size: Any) -> Any:
        """(B, Q, heads, h, w), one distribution over heads and places together."""
        each = WIDTH // HEADS
        q = self.q_linear(queries).unflatten(-1, (HEADS, each)) * each**-0.5
        k = self.k_linear(memory).unflatten(-1, (HEADS, each))
        weights = torch.einsum("bqnc,bpnc->bqnp", q, k).masked_fill(outside[:, None, None], float("-inf"))
        return weights.flatten(2).softmax(-1).unflatten(-1, (HEADS, *size))


class Masks(nn.Module):
    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        sizes = [WIDTH + HEADS, WIDTH + HEADS, WIDTH // 2, WIDTH // 4, WIDTH // 8, WIDTH // 16]
        for number, (before, after) in enumerate(pairwise(sizes), start=1):
            self.add_module(f"lay{number}", nn.Conv2d(before, after, 3, padding=1))
            self.add_module(f"gn{number}", nn.GroupNorm(min(8, after), after))
        for number, (before, after) in enumerate(zip(channels, sizes[2:], strict=False), start=1):
            self.add_module(f"adapter{number}", nn.Conv2d(before, after, 1))
        self.out_lay = nn.Conv2d(sizes[-1], 1, 3, padding=1)

    def forward(self, features: Any, attention: Any, finer: list[Any]) -> Any:
        def step(x: Any, number: int) -> Any:
            return getattr(self, f"gn{number}")(getattr(self, f"lay{number}")(x)).relu()

        drawn = []
        for query in range(QUERIES):  # one query at a time, everything repeated: slow and plain
            x = step(step(torch.cat([features, attention[:, query]], 1), 1), 2)
            for number, fine in enumerate(finer, start=1):
                adapted = getattr(self, f"adapter{number}")(fine)
                x = step(adapted + functional.interpolate(x, size=adapted.shape[-2:]), number + 2)
            drawn.append(self.out_lay(x))
        return torch.cat(drawn, 1)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_proj = nn.Conv2d(2048, WIDTH, 1)
        self.query_embed = nn.Embedding(QUERIES, WIDTH)
        self.transformer = nn.ModuleDict({"encoder": Stack(1), "decoder": Stack(2)})
        self.rel_cls_embed = nn.Linear(WIDTH, 57)
        for side in ("sub", "obj"):
            self.add_module(f"{side}_cls_embed", nn.Linear(WIDTH, 134))
            self.add_module(f"{side}_box_embed", Boxes())
            self.add_module(f"{side}_bbox_attention", AttentionMap())
            self.add_module(f"{side}_mask_head", Masks((1024, 512, 256)))


class Plain(nn.Module):
    """PSGTR over a ResNet of one block a stage, width 32, 12 queries."""

    def __init__(self) -> None:
        from torchvision.models.resnet import Bottleneck, ResNet

        super().__init__()
        self.backbone = ResNet(Bottleneck, [1, 1, 1, 1])
        del self.backbone.fc
        self.bbox_head = Head()

    def forward(self, pixels: Any, valid: Any) -> list[Any]:
        body: Any = self.backbone
        head: Any = self.bbox_head
        x = body.maxpool(body.bn1(body.conv1(pixels)).relu())
        maps = []
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = stage(x)
            maps.append(x)
        size = x.shape[-2:]
        projected = head.input_proj(x)
        inside = functional.interpolate(valid[:, None], size=size)[:, 0].bool()
        places, outside = sines(inside), ~inside.flatten(1)
        memory = projected.flatten(2).mT
        for layer in head.transformer["encoder"].layers:
            memory = layer(memory, places, None, None, outside)
        queries = head.query_embed.weight.expand(len(pixels), -1, -1)
        states = torch.zeros_like(queries)
        for layer in head.transformer["decoder"].layers:
            states = layer(states, queries, memory, places, outside)
        states = head.transformer["decoder"].post_norm(states)

        def masks(side: str) -> Any:
            attention = getattr(head, f"{side}_bbox_attention")(states, memory, outside, size)
            return getattr(head, f"{side}_mask_head")(projected, attention, maps[2::-1])

        return [
            head.sub_cls_embed(states),
            head.obj_cls_embed(states),
            head.rel_cls_embed(states),
            head.sub_box_embed(states),
            head.obj_box_embed(states),
            masks("sub"),
            masks("obj"),
        ]


def sines(inside: Any) -> Any:
    """(B, h * w, WIDTH): rows in the first half, columns in the second, counted within the picture, 0 to 2 pi."""
    count = inside.float()
    half = WIDTH // 2
    periods = 10000 ** (2 * (torch.arange(half) // 2) / half)
    parts = []
    for axis in (1, 2):
        place = count.cumsum(axis)
        place = place / (place.amax(axis, keepdim=True) + 1e-6) * 2 * torch.pi
        angles = place[..., None] / periods
        parts.append(torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), -1).flatten(-2))
    return torch.cat(parts, -1).flatten(1, 2)


@pytest.fixture(scope="module")
def plain() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = Plain().train(False)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 1.5)
                elif "box_embed" in name and tensor.dim() == 2:
                    tensor.normal_(std=0.4)
                elif "cls_embed.weight" in name or "query_embed" in name:
                    tensor.normal_(std=0.7)
                elif tensor.dim() == 1:
                    tensor.add_(torch.randn_like(tensor) * 0.1)
    return model


@pytest.fixture(scope="module")
def checkpoint(plain: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As mmcv's runner saves one: the state dict beside what is said of it."""
    path = tmp_path_factory.mktemp("checkpoint") / "psgtr.pth"
    meta = {"epoch": 60, "iter": 1, "mmcv_version": "1.4.3", "CLASSES": ["person"], "seed": None}
    torch.save({"meta": meta, "state_dict": plain.state_dict(), "optimizer": {"state": {}}}, path)
    return path


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("graph") / "tiny.onnx"
    export_psgtr("random:tiny", out, seed=SEED)
    assert list(out.parent.iterdir()) == [out]
    engine = OnnxRuntimeEngine(out, threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def network() -> Any:
    from services.scene_graph.psgtr.network import random_network, tiny_config

    return random_network(tiny_config(), seed=SEED)


def pictures(count: int, height: int = 64, width: int = 96) -> tuple[Any, Any]:
    """Pixels and masks; every other picture is padded below and to the right."""
    pixels = np.random.default_rng(count).normal(size=(count, 3, height, width)).astype(np.float32)
    mask = np.ones((count, height, width), np.float32)
    mask[1::2, height * 2 // 3 :] = mask[1::2, :, width * 2 // 3 :] = 0
    return pixels * mask[:, None], mask


def said(network: Any, pixels: Any, mask: Any) -> dict[str, Any]:
    with torch.no_grad():
        answer = network(torch.from_numpy(pixels), torch.from_numpy(mask))
    return {name: value.numpy() for name, value in answer._asdict().items()}


def test_a_published_checkpoint_says_what_the_plain_network_says(plain: Any, checkpoint: Path) -> None:
    from services.scene_graph.psgtr.checkpoint import load_checkpoint

    network = load_checkpoint(checkpoint)
    pixels, mask = pictures(2)
    ours = said(network, pixels, mask)
    with torch.no_grad():
        theirs = plain(torch.from_numpy(pixels), torch.from_numpy(mask))
    assert [len(value) for value in ours.values()] == [2] * 7
    for (name, found), expected in zip(ours.items(), theirs, strict=True):
        assert expected.std() > 0.03, f"{name} says nothing"
        np.testing.assert_allclose(found, expected.numpy(), atol=TOLERANCE, rtol=0, err_msg=name)


@pytest.mark.parametrize(("batch", "size"), [(1, (64, 96)), (2, (96, 64)), (5, (64, 96)), (8, (32, 128))])
def test_the_graph_says_what_the_network_says(
    network: Any, engine: Any, batch: int, size: tuple[int, int]
) -> None:
    pixels, mask = pictures(batch, *size)
    answer = engine.run({"pixel_values": pixels, "pixel_mask": mask})
    expected = said(network, pixels, mask)
    assert answer.keys() == expected.keys()
    assert answer["object_masks"].shape == (batch, 20, size[0] // 4, size[1] // 4)
    for name, want in expected.items():
        np.testing.assert_allclose(answer[name], want, atol=TOLERANCE, rtol=0, err_msg=name)


def test_a_picture_is_answered_alike_alone_and_in_company(engine: Any) -> None:
    pixels, mask = pictures(8)
    together = engine.run({"pixel_values": pixels, "pixel_mask": mask})
    for index in range(8):
        one = slice(index, index + 1)
        alone = engine.run({"pixel_values": pixels[one], "pixel_mask": mask[one]})
        for name, answer in alone.items():
            np.testing.assert_allclose(answer[0], together[name][index], atol=TOLERANCE, rtol=0, err_msg=name)


def test_random_weights_are_well_conditioned(network: Any) -> None:
    """Queries differ, pictures matter, and logits are of the size of a trained network's."""
    answer = said(network, *pictures(3))
    for name in ("subject_logits", "object_logits", "relation_logits"):
        assert answer[name].std() > 1, name
        assert (answer[name].std(axis=1) > 0.1).mean() > 0.9, name
        assert np.abs(answer[name][0] - answer[name][2]).max() > 0.01, name
    assert len(np.unique(answer["relation_logits"].argmax(axis=2))) > 5
    for name in ("subject_masks", "object_masks"):
        assert answer[name].std() > 0.5, name


def test_masks_are_drawn_as_detr_draws_them(network: Any) -> None:
    from services.scene_graph.psgtr.network import draw_masks

    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 32, 2, 3, generator=generator)
    attention = torch.rand(2, 20, 8, 2, 3, generator=generator)
    finer = [torch.randn(2, c, 2 * k, 3 * k, generator=generator) for c, k in ((32, 2), (24, 4), (16, 8))]
    with torch.no_grad():
        repeated = network.object_mask_head(features, attention, finer).reshape(2, 20, 16, 24)
        ours = draw_masks(network.object_mask_head, features, attention, finer)
    np.testing.assert_allclose(ours.numpy(), repeated.numpy(), atol=1e-5, rtol=0)


def test_a_file_that_is_not_the_one_expected_is_not_read(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.onnx"
    assert main(["psgtr", str(checkpoint), str(out), "--sha256", "0" * 64]) == 1
    assert "SHA-256" in capsys.readouterr().err
    assert main(["psgtr", "random:huge", str(out)]) == 1
    assert "tiny" in capsys.readouterr().err
    with pytest.raises(WeightsUnavailableError, match=r"nothing\.pth"):
        export_psgtr(tmp_path / "nothing.pth", out)
    assert not out.exists()

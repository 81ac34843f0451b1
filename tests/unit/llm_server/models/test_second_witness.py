"""A second, slow and simple implementation of both models, token by token in float64, as a witness beside the vectors.

It shares no code with the models: no batch, no padding, no fused attention. Properties run over dimensions, batch
sizes, paddings and prompts that the golden vectors do not have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm_server.models.aux_tokens import auxiliary_batch
from llm_server.models.checkpoint import build, released_key
from llm_server.models.collavo import Collavo
from llm_server.models.decoding import DecodingSession, GrowingCache
from llm_server.models.dimensions import (
    CompressorDimensions,
    CrayonDimensions,
    LanguageDimensions,
    MixerDimensions,
    ModelDimensions,
    VisionDimensions,
)
from llm_server.models.moai import Moai
from llm_server.models.prompt_batch import prompt_batch
from llm_server.models.vision_language import VisionLanguageModel

TOLERANCE = 3e-4
Weights = Mapping[str, Tensor]


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def layer_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    centred = x - x.mean()
    return (
        centred / (centred.square().mean() + 1e-5).sqrt() * weights[f"{name}.weight"]
        + weights[f"{name}.bias"]
    )


def attend(query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], heads: int) -> Tensor:
    """One query over a list of keys, head by head."""
    width = len(query) // heads
    out = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = torch.stack([query[part] @ key[part] for key in keys]) / math.sqrt(width)
        shares = torch.exp(scores - scores.max())
        shares = shares / shares.sum()
        out.append(
            sum((s * v[part] for s, v in zip(shares, values, strict=True)), torch.zeros(width).double())
        )
    return torch.cat(out)


@dataclass
class Prompt:
    """Ids before and behind the image (None: no image), and what the models want besides."""

    before: list[int]
    behind: list[int]
    pixels: Tensor | None
    classes: Tensor
    numbers: Tensor
    words: list[int]
    maps: Tensor


class Witness:
    """Reads one prompt, then writes token by token."""

    def __init__(self, model: VisionLanguageModel) -> None:
        self.d = model.dimensions
        self.w = {released_key(name): tensor.double() for name, tensor in model.named_parameters()}
        self.keys: list[list[Tensor]] = [[] for _ in range(self.d.language.layers)]
        self.values: list[list[Tensor]] = [[] for _ in range(self.d.language.layers)]

    def linear(self, x: Tensor, name: str) -> Tensor:
        out = self.w[f"{name}.weight"] @ x
        return out + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else out

    def connector(self, x: Tensor, name: str) -> Tensor:
        return self.linear(gelu(self.linear(x, f"{name}.0")), f"{name}.2")

    def image(self, pixels: Tensor) -> list[Tensor]:
        """Image tokens of pixels (3, side, side)."""
        v, tower = self.d.vision, "vit.vision_tower.vision_model"
        table = self.w[f"{tower}.embeddings.position_embedding.weight"]
        kernel = self.w[f"{tower}.embeddings.patch_embedding.weight"]
        rows = [self.w[f"{tower}.embeddings.class_embedding"] + table[0]]
        for y in range(v.grid):
            for x in range(v.grid):
                patch = pixels[:, y * v.patch : (y + 1) * v.patch, x * v.patch : (x + 1) * v.patch].double()
                rows.append((kernel * patch).sum(dim=(1, 2, 3)) + table[len(rows)])
        rows = [layer_norm(row, self.w, f"{tower}.pre_layrnorm") for row in rows]
        for index in range(v.layers):
            name = f"{tower}.encoder.layers.{index}"
            normed = [layer_norm(row, self.w, f"{name}.layer_norm1") for row in rows]
            q, k, v_ = (
                [self.linear(row, f"{name}.self_attn.{part}_proj") for row in normed] for part in "qkv"
            )
            heard = [self.linear(attend(each, k, v_, v.heads), f"{name}.self_attn.out_proj") for each in q]
            rows = [row + more for row, more in zip(rows, heard, strict=True)]
            for place, row in enumerate(rows):
                inner = self.linear(layer_norm(row, self.w, f"{name}.layer_norm2"), f"{name}.mlp.fc1")
                rows[place] = row + self.linear(inner / (1 + torch.exp(-1.702 * inner)), f"{name}.mlp.fc2")
        return [self.connector(row, "vision_proj") for row in rows[1:]]

    def crayon(self, prompt: Prompt) -> list[Tensor]:
        semantic, number = self.w["seg_prompt_embed.weight"], self.w["seg_num_embed.weight"]
        pairs = zip(prompt.classes.tolist(), prompt.numbers.tolist(), strict=True)
        return [
            self.connector(semantic[kind] + number[which], "vision_proj_for_seg") for kind, which in pairs
        ]

    def compressed(self, prompt: Prompt) -> list[Tensor]:
        c = self.d.compressor
        assert c is not None
        table = self.w["model.tok_embeddings.weight"]
        media = [table[word] for word in prompt.words] + self.image(prompt.maps)
        latents = list(self.w["moai_compressor.latents"])
        for index in range(c.depth):
            name = f"moai_compressor.layers.{index}"
            normed = [layer_norm(row, self.w, f"{name}.0.norm_latents") for row in latents]
            told = [layer_norm(row, self.w, f"{name}.0.norm_media") for row in media] + normed
            both = [self.linear(row, f"{name}.0.to_kv") for row in told]
            half = len(both[0]) // 2
            keys, values = [row[:half] for row in both], [row[half:] for row in both]
            for place, row in enumerate(normed):
                heard = attend(self.linear(row, f"{name}.0.to_q"), keys, values, c.heads)
                latents[place] = latents[place] + self.linear(heard, f"{name}.0.to_out")
            for place, row in enumerate(latents):
                inner = gelu(self.linear(layer_norm(row, self.w, f"{name}.1.0"), f"{name}.1.1"))
                latents[place] = row + self.linear(inner, f"{name}.1.3")
        return [layer_norm(row, self.w, "moai_compressor.norm") for row in latents]

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean() + self.d.language.rms_eps).sqrt() * self.w[f"{name}.weight"]

    def partial(self, x: Tensor, name: str, image: bool, crayon: Tensor | None) -> Tensor:
        out = self.linear(x, f"{name}.Plora_main")
        if image:
            low = self.linear(self.linear(x, f"{name}.Plora_A"), f"{name}.Plora_B")
            out = out + self.d.language.lora_scale * low
        if crayon is not None and self.d.crayon is not None and not name.endswith("w2"):
            low = self.linear(self.linear(crayon, f"{name}.Plora_seg_A"), f"{name}.Plora_seg_B")
            out = out + self.d.crayon.scale * low
        return out

    def rotate(self, x: Tensor, position: int) -> Tensor:
        half = len(x) // 2
        angles = position * self.d.language.rope_theta ** (-torch.arange(half).double() / half)
        first, second = x[:half], x[half:]
        cosine, sine = angles.cos(), angles.sin()
        return torch.cat((first * cosine - second * sine, second * cosine + first * sine))

    def expert(self, own: Tensor, told: Sequence[Tensor], name: str) -> Tensor:
        assert self.d.mixer is not None

        def pass_(x: Tensor, part: str) -> Tensor:
            return gelu(self.linear(self.linear(x, f"{name}.linear_{part}.0"), f"{name}.linear_{part}.1"))

        if not told:
            return own
        keys, values = [pass_(row, "k") for row in told], [pass_(row, "v") for row in told]
        return own + pass_(attend(pass_(own, "q"), keys, values, self.d.mixer.heads), "o")

    def mixed(self, rows: list[Tensor], image: list[bool], aux: list[Tensor], layer: int) -> list[Tensor]:
        at = f"model.layers.{layer}.attention.moai_"
        sides = {
            side: [row for row, flag in zip(rows, image, strict=True) if flag is side]
            for side in (True, False)
        }
        out = []
        for row, flag in zip(rows, image, strict=True):
            me, other = ("img", "lang") if flag else ("lang", "img")
            gates = torch.softmax(self.linear(row, f"{at}GA_{me}"), dim=0)
            said = (
                self.expert(row, aux, f"{at}CA_{me}_aux"),
                self.expert(row, sides[not flag], f"{at}CA_{me}_{other}"),
                self.expert(row, sides[flag], f"{at}SA_{me}"),
            )
            out.append(gates[0] * said[0] + gates[1] * said[1] + gates[2] * said[2])
        return out

    def decoder(
        self,
        rows: list[Tensor],
        image: list[bool],
        crayon: Sequence[Tensor | None],
        aux: list[Tensor] | None,
    ) -> Tensor:
        """Logits after the last of ``rows``, which come behind what was read before."""
        g = self.d.language
        start, group = len(self.keys[0]), g.heads // g.kv_heads
        for index in range(g.layers):
            name = f"model.layers.{index}"
            normed = [self.norm(row, f"{name}.attention_norm") for row in rows]
            if aux is not None and self.d.mixer is not None and index in self.d.mixer.layers:
                normed = self.mixed(normed, image, aux, index)
            for place, x in enumerate(normed):
                packed = self.partial(x, f"{name}.attention.wqkv", image[place], crayon[place])
                parts = packed.view(g.kv_heads, group + 2, g.head_width)
                self.keys[index].append(torch.cat([self.rotate(key, start + place) for key in parts[:, -2]]))
                self.values[index].append(parts[:, -1].reshape(-1))
                heard = []
                for head in range(g.heads):
                    own = slice(head // group * g.head_width, (head // group + 1) * g.head_width)
                    query = self.rotate(parts[head // group, head % group], start + place)
                    keys = [key[own] for key in self.keys[index]]
                    heard.append(attend(query, keys, [value[own] for value in self.values[index]], 1))
                out = self.partial(torch.cat(heard), f"{name}.attention.wo", image[place], crayon[place])
                rows[place] = rows[place] + out
            for place, row in enumerate(rows):
                x = self.norm(row, f"{name}.ffn_norm")
                w1, w3 = (
                    self.partial(x, f"{name}.feed_forward.{part}", image[place], crayon[place])
                    for part in ("w1", "w3")
                )
                inner = w1 / (1 + torch.exp(-w1)) * w3
                rows[place] = row + self.partial(
                    inner, f"{name}.feed_forward.w2", image[place], crayon[place]
                )
        return self.linear(self.norm(rows[-1], "model.norm"), "output")

    def read(self, prompt: Prompt) -> Tensor:
        table = self.w["model.tok_embeddings.weight"]
        seen = [] if prompt.pixels is None else self.image(prompt.pixels)
        before, behind = [table[i] for i in prompt.before], [table[i] for i in prompt.behind]
        flags = [False] * len(before) + [True] * len(seen) + [False] * len(behind)
        crayon: list[Tensor | None] = [None] * len(flags)
        if self.d.crayon is not None and seen:
            crayon[len(before) : len(before) + len(seen)] = self.crayon(prompt)
        aux = None if self.d.compressor is None else self.compressed(prompt)
        return self.decoder(before + seen + behind, flags, crayon, aux)

    def write(self, token: int) -> Tensor:
        return self.decoder([self.w["model.tok_embeddings.weight"][token]], [False], [None], None)


@st.composite
def dimensions(draw: st.DrawFn) -> ModelDimensions:
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    layers = draw(st.integers(1, 3))
    language = LanguageDimensions(
        hidden=kv_heads * group * 2 * draw(st.integers(1, 3)),
        intermediate=draw(st.integers(3, 20)),
        layers=layers,
        heads=kv_heads * group,
        kv_heads=kv_heads,
        vocabulary=draw(st.integers(8, 40)),
        lora_rank=draw(st.integers(1, 5)),
        lora_scale=draw(st.sampled_from((1.0, 0.5))),
        rope_theta=draw(st.sampled_from((1e4, 1e6))),
    )
    clip_heads, patch = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    vision = VisionDimensions(
        image_size=draw(st.integers(1, 3)) * patch + draw(st.integers(0, patch - 1)),
        patch=patch,
        width=clip_heads * draw(st.integers(1, 5)),
        intermediate=draw(st.integers(2, 12)),
        layers=draw(st.integers(1, 2)),
        heads=clip_heads,
    )
    if draw(st.booleans()):
        crayon = CrayonDimensions(
            draw(st.integers(2, 9)), draw(st.integers(2, 5)), draw(st.integers(1, 5)), 1.5
        )
        return ModelDimensions("collavo", language, vision, crayon=crayon)
    compressor = CompressorDimensions(
        latents=draw(st.integers(1, 4)),
        depth=draw(st.integers(1, 2)),
        heads=draw(st.integers(1, 3)),
        head_width=draw(st.integers(1, 4)),
        ff=draw(st.integers(1, 9)),
    )
    chosen = draw(st.sets(st.integers(0, layers - 1), min_size=1))
    divisors = [heads for heads in range(1, 5) if language.hidden % heads == 0]
    mixer = MixerDimensions(tuple(sorted(chosen)), draw(st.integers(1, 4)), draw(st.sampled_from(divisors)))
    return ModelDimensions("moai", language, vision, compressor=compressor, mixer=mixer)


def random_model(d: ModelDimensions, seed: int) -> VisionLanguageModel:
    model = build(d, "cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        values = torch.randn(tensor.shape, generator=generator)
        spread = 0.4 if "norm" not in name else 0.1
        tensor.data.copy_(values * spread + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return model


@st.composite
def prompts(draw: st.DrawFn, d: ModelDimensions, generator: torch.Generator) -> Prompt:
    ids = st.lists(st.integers(0, d.language.vocabulary - 1), max_size=6)
    side, tokens = d.vision.image_size, d.vision.tokens
    rows = (d.crayon.classes, d.crayon.numbers) if d.crayon else (1, 1)
    return Prompt(
        before=[1, *draw(ids)],
        behind=[*draw(ids), 3],
        pixels=torch.randn(3, side, side, generator=generator) if draw(st.integers(0, 4)) else None,
        classes=torch.randint(rows[0], (tokens,), generator=generator),
        numbers=torch.randint(rows[1], (tokens,), generator=generator),
        words=[1, *draw(ids)],
        maps=torch.randn(3, side, side, generator=generator),
    )


def read_together(model: VisionLanguageModel, batch_of: Sequence[Prompt]) -> tuple[DecodingSession, Tensor]:
    """The models' own way: one padded batch."""
    d = model.dimensions
    ids = [[*p.before, *([] if p.pixels is None else [d.language.image_id]), *p.behind] for p in batch_of]
    batch = prompt_batch(ids, image_id=d.language.image_id, image_tokens=d.vision.tokens, pad_id=2)
    seeing = [p for p in batch_of if p.pixels is not None]
    pixels = [p.pixels for p in seeing if p.pixels is not None]
    features = model.image_features(torch.stack(pixels)) if pixels else None
    cache = GrowingCache()
    if isinstance(model, Collavo):
        crayon = (
            model.crayon_features(
                torch.stack([p.classes for p in seeing]), torch.stack([p.numbers for p in seeing])
            )
            if seeing
            else None
        )
        states = model.read(batch, features, crayon=crayon, cache=cache)
    else:
        assert isinstance(model, Moai)
        maps = model.image_features(torch.stack([p.maps for p in batch_of]))
        auxiliary = model.auxiliary(auxiliary_batch([p.words for p in batch_of], 2), maps)
        states = model.read(batch, features, auxiliary, cache=cache).states
    return DecodingSession(model, batch, cache), model.last_logits(states)


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), d=dimensions(), seed=st.integers(0, 2**16), rows=st.integers(1, 3))
@torch.no_grad()
def test_any_batch_of_any_model_says_what_the_witness_says_of_each_prompt_alone(
    data: st.DataObject, d: ModelDimensions, seed: int, rows: int
) -> None:
    model, generator = random_model(d, seed), torch.Generator().manual_seed(seed + 1)
    batch_of = [data.draw(prompts(d, generator)) for _ in range(rows)]
    session, logits = read_together(model, batch_of)
    witnesses = [Witness(model) for _ in batch_of]
    wanted = torch.stack([each.read(prompt) for each, prompt in zip(witnesses, batch_of, strict=True)])
    scale = 1 + float(wanted.abs().max())
    assert float((logits - wanted).abs().max()) <= TOLERANCE * scale
    for _ in range(2):
        tokens = torch.randint(d.language.vocabulary, (rows,), generator=generator)
        logits = session.step(tokens)
        wanted = torch.stack([w.write(token) for w, token in zip(witnesses, tokens.tolist(), strict=True)])
        assert float((logits - wanted).abs().max()) <= TOLERANCE * (1 + float(wanted.abs().max()))

"""A crayon prompt through hooks is a plain Llama with the branch written into it; decode has none of it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from llm_server.models.crayon import CrayonIndexError, CrayonSwitches
from llm_server.models.crayon_files import CONFIG, WEIGHTS, CrayonRefused, load_crayon, save_crayon
from llm_server.models.crayon_hooks import (
    CrayonHooks,
    CrayonMismatch,
    branch_outputs,
    chunk_rows,
    crayon_rows,
    put_tokens,
)
from llm_server.models.crayon_prompt import TARGETS, CrayonPrompt, CrayonShape
from llm_server.tiny_model import tiny_model

SHAPE = CrayonShape(rows=2, columns=3, width=8, hidden=32, rank=3, alpha=6.0)
CLASSES = torch.tensor([[1, 1, 0, 7, 7, 133]])
NUMBERS = torch.tensor([[1, 2, 0, 1, 1, 20]])
TEXT = torch.tensor([[5, 6, 0, 0, 0, 0, 0, 0, 9, 10]])
IMAGE = torch.tensor([[False, False, *[True] * 6, False, False]])


def made(model: nn.Module, shape: CrayonShape = SHAPE, seed: int = 2) -> CrayonPrompt:
    torch.manual_seed(seed)
    crayon = CrayonPrompt(shape, branch_outputs(model, shape.targets))
    for name in crayon.outputs:
        nn.init.normal_(crayon.branch(name).B, std=0.3)
    return crayon


def read(
    model: Any,
    crayon: CrayonPrompt,
    switches: CrayonSwitches | None = None,
    tokens: Tensor = TEXT,
    **kwargs: Any,
) -> Tensor:
    """Logits of prompts with the crayon prompt of CLASSES and NUMBERS."""
    maps = (CLASSES.expand(len(tokens), -1), NUMBERS.expand(len(tokens), -1))
    rows = crayon_rows(IMAGE.expand(len(tokens), -1), crayon.features(*maps, switches=switches))
    embeddings = put_tokens(model.get_input_embeddings()(tokens), rows)
    with CrayonHooks(model, crayon).applied(rows):
        logits: Tensor = model(inputs_embeds=embeddings, **kwargs).logits
    return logits


def reference(model: Any, crayon: Any, classes: Tensor, numbers: Tensor) -> Tensor:
    """TEXT read by a Llama written out, one token of the grid after another, dense branches everywhere."""
    shape = crayon.shape
    weights: dict[str, Tensor] = {name: value.detach() for name, value in model.named_parameters()}
    config = model.config
    features = []
    for cell in range(shape.rows * shape.columns):
        query = crayon.semantic.weight[classes[0, cell]] + crayon.numbering.weight[numbers[0, cell]]
        query = query + crayon.row.weight[cell // shape.columns] + crayon.column.weight[cell % shape.columns]
        features.append(crayon.projector(query))
    c = torch.zeros(TEXT.shape[1], shape.hidden)
    c[IMAGE[0]] = torch.stack(features)
    x = weights["model.embed_tokens.weight"][TEXT[0]].clone()
    x[IMAGE[0]] = c[IMAGE[0]]

    def linear(name: str, states: Tensor) -> Tensor:
        out: Tensor = states @ weights[f"{name}.weight"].t()
        if name.rpartition(".")[2] not in shape.targets:
            return out
        branch = crayon.branch(name)
        return out.add(c @ branch.A.t() @ branch.B.t(), alpha=shape.alpha / shape.rank)

    def norm(name: str, states: Tensor) -> Tensor:
        size = states.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps
        return weights[f"{name}.weight"].mul(states * size.rsqrt())

    heads, groups = config.num_attention_heads, config.num_key_value_heads
    width = config.hidden_size // heads
    length = len(x)
    theta = config.rope_parameters["rope_theta"] ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(length)[:, None] * theta

    def turned(states: Tensor) -> Tensor:
        first, second = states.chunk(2, -1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    for number in range(config.num_hidden_layers):
        at = f"model.layers.{number}"
        y = norm(f"{at}.input_layernorm", x)
        q, k, v = (linear(f"{at}.self_attn.{p}_proj", y).view(length, -1, width) for p in "qkv")
        told = torch.zeros(length, heads, width)
        for head in range(heads):
            group = head // (heads // groups)
            scores = turned(q[:, head]) @ turned(k[:, group]).t() / width**0.5
            scores += torch.full((length, length), -torch.inf).triu(1)
            told[:, head] = scores.softmax(-1) @ v[:, group]
        x = x + linear(f"{at}.self_attn.o_proj", told.flatten(1))
        y = norm(f"{at}.post_attention_layernorm", x)
        gate = nn.functional.silu(linear(f"{at}.mlp.gate_proj", y))
        x = x + linear(f"{at}.mlp.down_proj", gate * linear(f"{at}.mlp.up_proj", y))
    return norm("model.norm", x).matmul(weights["model.embed_tokens.weight"].t())


@torch.no_grad()
def test_hooks_equal_a_llama_with_the_branch_written_out() -> None:
    model = tiny_model(320)
    crayon = made(model)
    found = read(model, crayon)[0]
    torch.testing.assert_close(found, reference(model, crayon, CLASSES, NUMBERS), rtol=1e-4, atol=2e-4)


@torch.no_grad()
def test_each_switch_changes_the_answer_and_off_is_the_model_alone() -> None:
    model = tiny_model(320)
    crayon = made(model)
    both = read(model, crayon)
    semantic = read(model, crayon, CrayonSwitches(semantic=True, numbering=False))
    numbering = read(model, crayon, CrayonSwitches(semantic=False, numbering=True))
    off = read(model, crayon, CrayonSwitches(semantic=False, numbering=False))
    answers = [both, semantic, numbering, off]
    for one in range(4):
        for other in range(one):
            assert float((answers[one] - answers[other]).abs().max()) > 0.05
    assert torch.equal(off, model(input_ids=TEXT).logits)


@torch.no_grad()
def test_text_before_the_picture_does_not_feel_it() -> None:
    model = tiny_model(320)
    alone = model(input_ids=TEXT).logits
    assert torch.equal(read(model, made(model))[:, :2], alone[:, :2])


@torch.no_grad()
def test_branches_take_part_and_only_on_their_layers() -> None:
    model = tiny_model(320)
    crayon = made(model)
    assert set(crayon.branches) == {
        name.replace(".", "/") for name, _ in model.named_modules() if name.endswith(TARGETS)
    }
    whole = read(model, crayon)
    for name in crayon.outputs:
        crayon.branch(name).B.zero_()
    assert float((read(model, crayon) - whole).abs().max()) > 0.05
    tokens_only = made(model, CrayonShape(2, 3, 8, 32, rank=0, alpha=1.0))
    assert not tokens_only.branches
    assert read(model, tokens_only).shape == whole.shape


def test_the_21st_of_a_kind_is_unknown_in_serving_and_an_error_in_reference() -> None:
    crayon = made(tiny_model(320))
    beyond, unknown = NUMBERS.clone(), NUMBERS.clone()
    beyond[0, 5], unknown[0, 5] = 21, 0
    served, known = crayon.features(CLASSES, beyond), crayon.features(CLASSES, unknown)
    assert served is not None
    assert known is not None
    assert torch.equal(served, known)
    with pytest.raises(CrayonIndexError, match="21"):
        crayon.features(CLASSES, beyond, unknown_beyond=False)
    with pytest.raises(CrayonIndexError, match="134"):
        crayon.features(CLASSES + 1, NUMBERS)


@torch.no_grad()
def test_decode_has_no_hook_and_calls_no_branch() -> None:
    model: Any = tiny_model(320)
    crayon = made(model)
    called: Counter[str] = Counter()
    for name, module in crayon.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.update([name]))
    first = read(model, crayon, use_cache=True)
    assert sum(name.startswith("branches.") for name in called.elements()) == len(crayon.branches) == 12
    called.clear()
    whole = read(model, crayon)
    assert torch.equal(first, whole)
    called.clear()
    assert not any(module._forward_hooks for module in model.modules())
    model(input_ids=torch.tensor([[7]]))
    assert not called


@torch.no_grad()
def test_a_batch_is_as_its_prompts_alone_with_and_without_a_picture() -> None:
    model: Any = tiny_model(320)
    crayon = made(model)
    tokens = torch.cat([TEXT, TEXT + 1, TEXT + 2])
    has = torch.tensor([True, False, True])
    maps = (torch.cat([CLASSES, CLASSES.flip(1)]), torch.cat([NUMBERS, NUMBERS.flip(1)]))
    features = crayon.features(*maps)
    assert features is not None
    rows = crayon_rows(IMAGE.expand(3, -1), features, has)
    hooks = CrayonHooks(model, crayon)
    embed = model.get_input_embeddings()
    with hooks.applied(rows):
        together = model(inputs_embeds=put_tokens(embed(tokens), rows)).logits
    for row, own in ((0, 0), (2, 1)):
        alone = crayon_rows(IMAGE, features[own : own + 1])
        with hooks.applied(alone):
            expected = model(inputs_embeds=put_tokens(embed(tokens[row : row + 1]), alone)).logits
        torch.testing.assert_close(together[row : row + 1], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together[1:2], model(input_ids=tokens[1:2]).logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="12 crayon features for 18"):
        crayon_rows(IMAGE.expand(3, -1), features)


@given(st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
@torch.no_grad()
def test_a_prompt_read_in_chunks_is_the_prompt_read_whole(cuts: list[int]) -> None:
    from transformers import DynamicCache

    model: Any = tiny_model(320)
    crayon = made(model)
    rows = crayon_rows(IMAGE, crayon.features(CLASSES, NUMBERS))
    embeddings = put_tokens(model.get_input_embeddings()(TEXT), rows)
    hooks, cache, parts = CrayonHooks(model, crayon), DynamicCache(), []
    edges = sorted({0, *cuts, TEXT.shape[1]})
    for start, end in pairwise(edges):
        with hooks.applied(chunk_rows(rows, start, end - start)):
            parts.append(model(inputs_embeds=embeddings[:, start:end], past_key_values=cache).logits)
    torch.testing.assert_close(torch.cat(parts, 1), read(model, crayon), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_same_parameters_fit_the_model_before_and_after_adapters() -> None:
    model: Any = tiny_model(320)
    crayon = made(model)
    before = read(model, crayon)
    adapted: Any = get_peft_model(model, LoraConfig(r=2, target_modules=list(TARGETS)))
    assert branch_outputs(adapted, TARGETS) == branch_outputs(tiny_model(320), TARGETS)
    torch.testing.assert_close(read(adapted, crayon), before)


def test_gradients_pass_through_checkpointed_layers() -> None:
    gradients = []
    for checkpointing in (False, True):
        model: Any = tiny_model(320).train()
        if checkpointing:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        crayon = made(model)
        rows = crayon_rows(IMAGE, crayon.features(CLASSES, NUMBERS))
        embeddings = put_tokens(model.get_input_embeddings()(TEXT), rows)
        with CrayonHooks(model, crayon).applied(rows):
            model(inputs_embeds=embeddings, use_cache=False).logits.square().mean().backward()
        gradients.append({name: value.grad for name, value in crayon.named_parameters()})
    assert all(value is not None and float(value.abs().max()) > 0 for value in gradients[0].values())
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value)


def test_saved_beside_adapters_and_read_again(tmp_path: Path) -> None:
    crayon = made(tiny_model(320))
    save_crayon(crayon, tmp_path, base="tiny-llama", dtype=None)
    again = load_crayon(tmp_path, base="somebody/Tiny-Llama")
    assert again.shape == crayon.shape
    assert not any(value.requires_grad for value in again.parameters())
    with torch.no_grad():
        assert torch.equal(read(tiny_model(320), again), read(tiny_model(320), crayon))
    with pytest.raises(CrayonRefused, match="made for tiny-llama"):
        load_crayon(tmp_path, base="other")
    config = json.loads((tmp_path / CONFIG).read_text())
    config["shape"]["rank"] = 5
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CrayonRefused, match="cannot be read"):
        load_crayon(tmp_path, base="tiny-llama")
    (tmp_path / CONFIG).write_text("[]")
    with pytest.raises(CrayonRefused, match="is not"):
        load_crayon(tmp_path, base="tiny-llama")
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / CONFIG).unlink()
    with pytest.raises(CrayonRefused, match="cannot be read"):
        load_crayon(tmp_path, base="tiny-llama")


@torch.no_grad()
def test_a_table_that_was_not_trained_never_takes_part(tmp_path: Path) -> None:
    model = tiny_model(320)
    crayon = made(model)
    save_crayon(crayon, tmp_path, base="tiny-llama", dtype=None, queries="semantic")
    assert json.loads((tmp_path / CONFIG).read_text())["crayon_queries"] == "semantic"
    again = load_crayon(tmp_path, base="tiny-llama")
    semantic = read(model, crayon, CrayonSwitches(semantic=True, numbering=False))
    assert torch.equal(read(model, again), semantic)
    assert torch.equal(read(model, again, CrayonSwitches(semantic=True, numbering=False)), semantic)
    assert again.features(CLASSES, NUMBERS, switches=CrayonSwitches(semantic=False, numbering=True)) is None
    # What was read keeps its word when it is written again.
    save_crayon(again, tmp_path / "again", base="tiny-llama")
    assert load_crayon(tmp_path / "again", base="tiny-llama").queries == "semantic"


def test_a_config_that_does_not_say_which_tables_were_trained_means_both(tmp_path: Path) -> None:
    save_crayon(made(tiny_model(320)), tmp_path, base="tiny-llama")
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config.pop("crayon_queries") == "both"
    (tmp_path / CONFIG).write_text(json.dumps(config))
    assert load_crayon(tmp_path, base="tiny-llama").queries == "both"
    for wrong in ("off", "numbering", None, ["both"]):
        (tmp_path / CONFIG).write_text(json.dumps({**config, "crayon_queries": wrong}))
        with pytest.raises(CrayonRefused, match="query tables"):
            load_crayon(tmp_path, base="tiny-llama")


def test_what_does_not_belong_together_is_refused() -> None:
    model = tiny_model(320)
    with pytest.raises(CrayonMismatch, match="wqkv"):
        branch_outputs(model, ("q_proj", "wqkv"))
    with pytest.raises(CrayonMismatch, match="16 wide"):
        CrayonHooks(model, CrayonPrompt(CrayonShape(2, 3, 8, 16, 3, 6.0), {}))
    with pytest.raises(CrayonMismatch, match="branches"):
        CrayonHooks(model, CrayonPrompt(SHAPE, {"model.layers.0.self_attn.q_proj": 32}))
    wrongs: tuple[dict[str, Any], ...] = ({"rows": 0}, {"rank": -1}, {"targets": ()})
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"crayon prompt|does not go with"):
            replace(SHAPE, **wrong)

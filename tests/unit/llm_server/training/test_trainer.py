"""One adapter learns at a time, the run is seeded, and what it writes can be read again."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers.models.llama import modeling_llama

from llm_server.adapter_files import read_adapters
from llm_server.base_checkpoint import NAME
from llm_server.base_model import STORED_PRECISION
from llm_server.tiny_model import tiny_model, tiny_tokenizer
from llm_server.training import cards
from llm_server.training.mixture import Mixture, samples
from llm_server.training.packing import collate
from llm_server.training.question import Question
from llm_server.training.recipe import (
    DataHash,
    Recipe,
    Stage,
    adapted,
    load_adapters,
    run_card,
    scaled,
    stage_samples,
    train,
)
from llm_server.training.scenes import Scene
from llm_server.training.trainer import (
    PackedScenes,
    Progress,
    answer_loss,
    only_trains,
    run_training,
    save_adapters,
)


def words(scene: Scene) -> str:
    return f"The image includes {len(scene.objects)} objects."


def run(
    folder: Path, *, steps: int, task_share: float = 0.5, seed: int = 4, together: int = 1
) -> tuple[Any, Progress, DataHash]:
    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    model = adapted(tiny_model(320), rank=4, alpha=8)
    data = DataHash(words)
    stream = data.through(
        islice(samples(seed, Mixture(vl_share=task_share), questions=2, together=together), steps * together)
    )
    progress = run_training(
        model,
        PackedScenes(stream, tokenizer, words, max_tokens=400, together=together),
        folder=folder,
        pad_id=0,
        steps=steps,
        learning_rate=1e-2,
        warmup=1,
        decline=steps // 4,
        seed=seed,
        save_every_s=0.0,
    )
    return model, progress, data


def changed_adapters(model: Any) -> set[str]:
    """Adapters whose B, zero at first, has moved."""
    return {n.split(".")[-2] for n, p in model.named_parameters() if "lora_B" in n and p.abs().max() > 0}


def test_a_step_of_one_task_moves_that_adapter_only(tmp_path: Path) -> None:
    assert changed_adapters(run(tmp_path, steps=2, task_share=1.0)[0]) == {"vl"}
    assert changed_adapters(run(tmp_path, steps=2, task_share=0.0)[0]) == {"object"}


def test_the_same_seed_trains_the_same_adapters_and_hashes_the_same_data(tmp_path: Path) -> None:
    first, progress, data = run(tmp_path / "a", steps=8, together=2)
    again, _, same_data = run(tmp_path / "b", steps=8, together=2)
    other, _, other_data = run(tmp_path / "c", steps=8, seed=5, together=2)
    assert changed_adapters(first) == {"object", "vl"}
    weights, repeated = ({n: p for n, p in m.named_parameters() if "lora_" in n} for m in (first, again))
    assert all(torch.equal(weights[name], repeated[name]) for name in weights)
    assert any(not torch.equal(weights[n], p) for n, p in other.named_parameters() if "lora_" in n)
    assert data.sha256 == same_data.sha256 != other_data.sha256
    assert data.samples == 16
    assert json.loads((tmp_path / "a" / "progress.json").read_text())["step"] == 8
    assert progress.curve == [] or progress.curve[-1]["loss"] > 0


def test_a_run_that_fails_leaves_transformers_as_it_was(tmp_path: Path) -> None:
    checkpoint = tmp_path / "base"
    tiny_model(320).bfloat16().save_pretrained(checkpoint)
    tiny_tokenizer().save_pretrained(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, STORED_PRECISION: "nf4-dequantised"}))
    own = modeling_llama.apply_rotary_pos_emb
    seen: list[Any] = []

    def speechless(scene: Scene) -> str:
        seen.append(modeling_llama.apply_rotary_pos_emb)
        raise RuntimeError("nobody can put this into words")

    with pytest.raises(RuntimeError, match="into words"):
        train(
            scaled(Recipe(rank=2), 1), checkpoint=checkpoint, verbalize=speechless, out=tmp_path / "adapters"
        )
    assert seen[0] is not own
    assert modeling_llama.apply_rotary_pos_emb is own


def test_saved_adapters_are_read_by_the_server_and_compute_the_same(tmp_path: Path) -> None:
    model = adapted(tiny_model(320), rank=4, alpha=8)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = (torch.randn_like(parameter) * 0.2).bfloat16().float()
    save_adapters(model, tmp_path)
    assert {t.dtype for t in load_file(tmp_path / "vl" / "adapter_model.safetensors").values()} == {
        torch.bfloat16
    }
    assert [a.name for a in read_adapters(tmp_path, base=NAME)] == ["object", "vl"]
    again = load_adapters(tiny_model(320), tmp_path)
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=tokens).logits, model(input_ids=tokens).logits)


def test_careless_typing_keeps_the_answer() -> None:
    texts = [q.text for s in islice(samples(1, Mixture(), questions=8), 60) for q in s.questions]
    assert any(text[0].islower() for text in texts)
    assert sum(text[0].islower() for text in texts) < 0.15 * len(texts)


def test_the_card_says_what_was_done(tmp_path: Path) -> None:
    for task in ("object", "vl"):
        (tmp_path / task).mkdir()
    recipe = scaled(Recipe(), 7)
    data = DataHash(words)
    for stage in recipe.stages:
        list(data.through(stage_samples(recipe, stage)))
    kinds = ("count", "existence", "relation", "text")
    card = run_card(
        recipe,
        data,
        curve=[],
        stage_hashes=["0"] * 4,
        seconds=120.0,
        processor_seconds=200.0,
        resumed=False,
    )
    card["scores"] = {"n": 5, "seed": 1, **dict.fromkeys(kinds, 0.5), "base": dict.fromkeys(kinds, 0.25)}
    cards.write(card, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert f"7 steps, {data.answers} answers" in text
    assert "| base alone | 0.250 | 0.250 | 0.250 | 0.250 |" in text
    assert json.loads((tmp_path / "recipe.json").read_text())["steps"] == 7
    assert (tmp_path / "vl" / "description.txt").read_text().startswith("Relations")


def test_a_shorter_run_keeps_the_proportions_of_its_stages() -> None:
    whole = Recipe()
    assert scaled(whole, whole.steps).stages == whole.stages
    assert [stage.steps for stage in scaled(whole, 90).stages] == [31, 14, 15, 13, 17]
    assert [stage.steps for stage in scaled(whole, 1).stages] == [1]
    assert scaled(whole, 1).steps == 1


def test_stages_of_the_recipe_do_not_share_scenes() -> None:
    recipe = Recipe(stages=(Stage(4, 0, Mixture()), Stage(4, 1000, Mixture())))
    first, second = (list(stage_samples(recipe, stage)) for stage in recipe.stages)
    assert {s.scene for s in first}.isdisjoint({s.scene for s in second})
    shipped = Recipe().stages
    assert all(a.start + a.steps * Recipe().scenes_per_step < b.start for a, b in pairwise(shipped))


def test_scenes_of_a_step_have_one_task_and_like_lengths_and_none_is_lost() -> None:
    stream = list(islice(samples(9, Mixture(), questions=6, together=2), 40))
    apart = [a.task == b.task for a, b in zip(stream[::2], stream[1::2], strict=True)]
    assert all(apart)
    packed = PackedScenes(iter(stream), tiny_tokenizer(), words, max_tokens=900, together=2)
    rows = list(packed)
    plain = list(PackedScenes(iter(stream), tiny_tokenizer(), words, max_tokens=900))
    assert [task for task, _ in rows] == [task for task, _ in plain]
    assert sorted(row.ids for _, row in rows) == sorted(row.ids for _, row in plain)

    def unlike(pairs: list[Any]) -> int:
        return sum(abs(len(a[1]) - len(b[1])) for a, b in zip(pairs[::2], pairs[1::2], strict=True))

    assert unlike(rows) < 0.6 * unlike(plain)


def test_two_scenes_side_by_side_learn_what_they_learn_one_after_another() -> None:
    model = adapted(tiny_model(320), rank=4, alpha=8)
    only_trains(model, "vl")
    tokenizer = tiny_tokenizer()
    stream = islice(samples(3, Mixture(vl_share=1.0), questions=3), 2)
    rows = [collate([row], pad_id=0) for _, row in PackedScenes(stream, tokenizer, words, max_tokens=400)]

    def learn(row: Any) -> None:
        loss: Any = answer_loss(model, row) / 2
        loss.backward()

    for row in rows:
        learn(row)
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    with ThreadPoolExecutor(2) as workers:
        list(workers.map(learn, rows))
    assert expected
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name])


def asked(mixture: Mixture) -> list[Question]:
    return [q for s in islice(samples(2, mixture, questions=6), 80) for q in s.questions]


def share(questions: list[Question], holds: Callable[[Question], bool]) -> float:
    return sum(map(holds, questions)) / len(questions)


def test_a_mixture_asks_backwards_more_often() -> None:
    def backwards(question: Question) -> bool:
        return question.kind == "relation" and question.text.lower().startswith(("who is", "which object is"))

    usual, more = (asked(Mixture(vl_share=1.0, backwards=factor)) for factor in (1.0, 8.0))
    assert share(more, backwards) > 1.5 * share(usual, backwards)


def test_a_mixture_counts_more_often_what_is_not_there() -> None:
    def none(question: Question) -> bool:
        return question.kind == "count" and question.answer.startswith(("There are no", "0."))

    usual, more = (asked(Mixture(vl_share=0.0, absent_share=part)) for part in (0.1, 0.5))
    assert share(more, none) > 2 * share(usual, none)

"""MoAI's two steps on tiny weights: what learns, what does not, that it learns, and that a cut run goes on the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from llm_server.models.aux_tokens import Source
from llm_server.models.checkpoint import load, released_key
from llm_server.models.moai import Moai
from llm_server.prompts.intern_tokenizer import InternTokenizer
from llm_server.prompts.internlm import TURN_END, prompt
from llm_server.training.dual_settings import TrainingRefused
from llm_server.training.moai_batch import answered, collate_moai
from llm_server.training.moai_checkpoint import write_checkpoint
from llm_server.training.moai_examples import SceneMoaiExamples
from llm_server.training.moai_model import EXPERT_MODULES, MoaiLearner, draw_experts, initialise
from llm_server.training.moai_run import MoaiSources, train_moai
from llm_server.training.moai_settings import PUBLISHED, TINY, MoaiSettings, MoaiStage, check
from llm_server.training.packing import IGNORED
from llm_server.training.run_folder import CARD
from llm_server.training.scenes import Scene

GOLDEN = Path(__file__).parents[3] / "parity" / "golden" / "checkpoints" / "moai-tiny"
QUICK = replace(
    TINY,
    stages=(MoaiStage("step1", 4, 1e-2, 1e-3, 1), MoaiStage("step2", 3, 1e-2, 1e-3, 1)),
    prompts=1,
    examples=2,
    heldout=1,
    save_steps=2,
)


def words(scene: Scene) -> Mapping[Source, str]:
    return {"regions": f"{len(scene.objects)} objects.", "text": ", ".join(scene.lines)}


def golden() -> Moai:
    model = load(GOLDEN)
    assert isinstance(model, Moai)
    return model


def sources(settings: MoaiSettings, side: int = 70) -> MoaiSources:
    train, heldout = (SceneMoaiExamples(split, settings.seed, side, words) for split in ("train", "heldout"))
    return MoaiSources(train, heldout)


def run(out: Path, settings: MoaiSettings = QUICK, **more: Any) -> dict[str, Any]:
    tokenizer = InternTokenizer(GOLDEN / "tokenizer.model")
    return train_moai(settings, golden(), tokenizer, sources(settings), checkpoint=GOLDEN, out=out, **more)


def lines(out: Path) -> list[str]:
    return [
        line for path in sorted(out.glob("stages/*/losses.jsonl")) for line in path.read_text().splitlines()
    ]


class Watch(TrainerCallback):
    """Notes which tensors each step moved; ends the run at a step, as a kill would, if told to."""

    def __init__(self, cut_at: tuple[int, int] | None = None) -> None:
        self.moved: list[set[str]] = []
        self._cut_at = cut_at
        self._before: dict[str, torch.Tensor] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._before = {key: value.detach().clone() for key, value in model.trained().items()}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        now = model.trained()
        self.moved.append({key for key, value in now.items() if not torch.equal(value, self._before[key])})
        if (state.max_steps, state.global_step) == self._cut_at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Watch]:
    out, watch = tmp_path_factory.mktemp("moai"), Watch()
    return out, run(out, callbacks=[watch]), watch


def test_the_first_step_moves_the_compressor_and_the_drawn_experts_the_second_everything(
    whole: tuple[Path, dict[str, Any], Watch],
) -> None:
    moved = whole[2].moved
    assert len(moved) == 7
    for step in (1, 2, 3):
        drawn = draw_experts(0, step, (7,))
        speaking = {f"moai_{EXPERT_MODULES[side][expert]}" for (_, side), expert in drawn.items()}
        mixers = {key.split(".")[4] for key in moved[step] if ".attention." in key}
        assert mixers == speaking
        assert any(key.startswith("moai_compressor.") for key in moved[step]) == (0 in drawn.values())
    assert {key.split(".")[4] for key in moved[6] if ".attention." in key} == {
        *(f"moai_{name}" for side in EXPERT_MODULES.values() for name in side), "moai_GA_img", "moai_GA_lang",
    }  # fmt: skip


def test_what_does_not_learn_has_the_same_bytes_and_the_new_checkpoint_loads(
    whole: tuple[Path, dict[str, Any], Watch],
) -> None:
    out, card, _ = whole
    before, after = golden(), load(out / "checkpoint")
    for (name, was), (_, now) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        if "moai" not in released_key(name):
            assert torch.equal(was, now), name
    assert isinstance(after, Moai)
    learner = MoaiLearner(after, "bfloat16")
    stored = {key: value.detach().clone() for key, value in learner.trained().items()}
    learner.restore(out)
    assert all(torch.equal(stored[key], value) for key, value in learner.trained().items())
    assert learner.frozen_sha256() == card["frozen_sha256"]
    assert json.loads((out / CARD).read_text()) == json.loads(json.dumps(card))
    assert card["trained_parameters"] == sum(value.numel() for value in stored.values())
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG") == card["plot"]


@pytest.mark.parametrize("cut_at", [(4, 3), (3, 1)])
def test_a_run_that_was_cut_goes_on_with_the_same_losses_and_weights(
    whole: tuple[Path, dict[str, Any], Watch], tmp_path: Path, cut_at: tuple[int, int]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[Watch(cut_at)])
    card = run(tmp_path, resume=True)
    assert lines(tmp_path) == lines(whole[0])
    assert len(lines(tmp_path)) == 7
    assert card["data_sha256"] == whole[1]["data_sha256"]
    assert (tmp_path / "trained.safetensors").read_bytes() == (whole[0] / "trained.safetensors").read_bytes()
    with pytest.raises(TrainingRefused, match="holds a run"):
        run(tmp_path)
    with pytest.raises(TrainingRefused, match="other settings"):
        run(tmp_path, replace(QUICK, seed=9), resume=True)


def test_a_killed_process_goes_on(
    whole: tuple[Path, dict[str, Any], Watch], run_killed: Callable[..., None], tmp_path: Path
) -> None:
    run_killed(Path(__file__), tmp_path, "step1", 3)
    assert len(lines(tmp_path)) == 3
    run(tmp_path, resume=True)
    assert lines(tmp_path) == lines(whole[0])


def test_two_examples_seen_again_and_again_are_learnt(tmp_path: Path) -> None:
    settings = replace(
        QUICK, stages=(MoaiStage("step1", 12, 2e-2, 1e-3, 1), MoaiStage("step2", 24, 2e-2, 1e-3, 1))
    )
    card = run(tmp_path, settings)
    assert card["improved"]
    assert card["loss"]["after_step2"]["seen"] < card["loss"]["after_step1"]["seen"]


def test_mixers_see_the_prompt_alone_so_an_answer_does_not_give_itself_away() -> None:
    """What is predicted for the first token of an answer is the same whatever the answer is."""
    model, tokenizer = golden(), InternTokenizer(GOLDEN / "tokenizer.model")
    one = sources(QUICK).train.draw(0)
    losses = []
    for answer in ("Yes.", "Yes, there are 3 dogs."):
        batch = collate_moai([replace(one, answer=answer)], tokenizer, model.dimensions)
        first = (batch.targets != IGNORED).nonzero()[0]
        targets = torch.full_like(batch.targets, IGNORED)
        targets[first[0], first[1]] = 7
        learner = MoaiLearner(model, "float32")
        losses.append(float(learner(replace(batch, targets=targets), None)))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_batch_learns_each_answer_and_the_end_of_its_turn() -> None:
    model, tokenizer = golden(), InternTokenizer(GOLDEN / "tokenizer.model")
    examples = [sources(QUICK).train.draw(number) for number in range(3)]
    batch = collate_moai(examples, tokenizer, model.dimensions)
    end = tokenizer.encode(TURN_END, bos=False)[-1]
    for row, one in enumerate(examples):
        asked, answer = answered(tokenizer, one.question, one.answer)
        learnt = batch.targets[row][batch.targets[row] != IGNORED].tolist()
        assert learnt == answer
        assert learnt[-1] == end
        assert asked == tokenizer.encode(prompt(one.question, "eval"))
        assert int(batch.asked[row].sum()) == len(asked) - 1 + model.dimensions.vision.tokens
    assert len({collate_moai([one], tokenizer, model.dimensions).digest for one in examples}) == 3
    with pytest.raises(ValueError, match="segments of"):
        collate_moai([replace(examples[0], segments=examples[0].segments[1:])], tokenizer, model.dimensions)


def test_gates_begin_even_and_the_same_seed_gives_the_same_weights() -> None:
    one, other, third = golden(), golden(), golden()
    for model, seed in ((one, 3), (other, 3), (third, 4)):
        initialise(model, seed)
    keys = {released_key(name): value for name, value in one.named_parameters()}
    assert not keys["model.layers.7.attention.moai_GA_img.weight"].any()
    again = {released_key(name): value for name, value in other.named_parameters()}
    assert all(torch.equal(value, again[key]) for key, value in keys.items())
    assert not torch.equal(one.moai_compressor.latents, third.moai_compressor.latents)


def test_a_quantised_base_on_a_cpu_and_a_missing_gpu_are_refused() -> None:
    with pytest.raises(TrainingRefused, match="no gradients"):
        check(replace(TINY, precision="nf4"), cuda=False)
    with pytest.raises(TrainingRefused, match="CUDA"):
        check(PUBLISHED, cuda=False)
    with pytest.raises(ValueError, match="cannot be"):
        MoaiStage("step1", 0, 1e-3, 1e-4, 1)
    assert [(s.learning_rate, s.final_rate) for s in PUBLISHED.stages] == [(2e-5, 1e-6)] * 2


def test_a_checkpoint_is_not_written_over_itself_nor_given_strange_tensors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose another"):
        write_checkpoint(GOLDEN, {}, GOLDEN)
    with pytest.raises(ValueError, match="has no moai_new"):
        write_checkpoint(GOLDEN, {"moai_new": torch.zeros(1)}, tmp_path)

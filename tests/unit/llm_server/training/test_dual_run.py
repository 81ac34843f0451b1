"""Stages train what they say, a killed run goes on as if it had not been, and what is written can be served."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from llm_server.adapter_files import read_adapters
from llm_server.models.crayon_files import CONFIG, load_crayon
from llm_server.tiny_model import tiny_model, tiny_tokenizer
from llm_server.training.dual_model import TENSORS, DualModel, crayon_for
from llm_server.training.dual_run import Sources, improved, train_dual
from llm_server.training.dual_schedule import as_begun, within_budget
from llm_server.training.dual_settings import (
    EMBEDDED,
    TINY,
    AdapterSettings,
    BatchSettings,
    CrayonSettings,
    DualSettings,
    StageSettings,
    TrainingRefused,
    Views,
    varied,
)
from llm_server.training.dual_trainer import collate_inputs
from llm_server.training.examples import SceneExamples
from llm_server.training.image_packing import ImagePacked
from llm_server.training.loss_curve import LossCurve, Step, data_sha256, plot
from llm_server.training.packed_attention import register
from llm_server.training.packing import pack
from llm_server.training.recipe import adapted
from llm_server.training.run_folder import CARD
from llm_server.training.scenes import Scene
from llm_server.training.staged_trainer import WHOLE, last_checkpoint
from llm_server.training.vocabulary import STUFF, THINGS

LABELS = {name: [number] for number, name in enumerate(THINGS + STUFF)}
QUICK = replace(
    TINY,
    crayon=CrayonSettings(rows=2, columns=3, width=8, rank=2, alpha=2.0),
    batch=BatchSettings(questions=2, max_tokens=300),
    stages=(StageSettings("cpt", 5, 1e-2, 1e-3, 1), StageSettings("cit", 7, 1e-2, 1e-3, 1)),
    save_steps=3,
    heldout=2,
)


def words(scene: Scene) -> str:
    return f"{len(scene.objects)} objects."


def sources(settings: DualSettings) -> Sources:
    return Sources(*(SceneExamples(settings, split, words, LABELS) for split in ("train", "heldout")))


def base() -> Any:
    model = tiny_model(320).requires_grad_(False)
    model.set_attn_implementation(register())
    return model


def run(out: Path, settings: DualSettings = QUICK, **more: Any) -> dict[str, Any]:
    return train_dual(settings, base(), tiny_tokenizer(), sources(settings), pad_id=0, out=out, **more)


def lines(out: Path) -> list[str]:
    return [
        line for path in sorted(out.glob("stages/*/losses.jsonl")) for line in path.read_text().splitlines()
    ]


def dual_model(settings: DualSettings = QUICK) -> DualModel:
    torch.manual_seed(0)
    model = adapted(base(), rank=4, alpha=8)
    return DualModel(model, crayon_for(model, settings.crayon))


class Cut(TrainerCallback):
    """Ends the run at a step, as a kill would: nothing is saved."""

    def __init__(self, at: int, stage_steps: int) -> None:
        self._at, self._steps = at, stage_steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.max_steps == self._steps and state.global_step == self._at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("whole")
    return out, run(out)


@pytest.mark.parametrize(("at", "steps"), [(4, 5), (2, 7)])
def test_a_run_that_was_cut_goes_on_with_the_same_losses_and_weights(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, at: int, steps: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[Cut(at, steps)])
    # As a kill in the middle of a save would leave it: a folder that is not whole.
    stage = sorted(tmp_path.glob("stages/*"))[-1]
    (stage / "checkpoint-99").mkdir()
    (stage / "checkpoint-99" / TENSORS).write_bytes(b"half")
    card = run(tmp_path, resume=True)
    assert lines(tmp_path) == lines(whole[0])
    assert len(lines(tmp_path)) == 12
    assert card["data_sha256"] == whole[1]["data_sha256"]
    assert card["heldout_loss"] == whole[1]["heldout_loss"]
    for name in (
        "object/adapter_model.safetensors",
        "vl/adapter_model.safetensors",
        "crayon/crayon_model.safetensors",
    ):
        assert (tmp_path / name).read_bytes() == (whole[0] / name).read_bytes()


def test_what_is_written_is_what_the_server_reads(whole: tuple[Path, dict[str, Any]]) -> None:
    out, card = whole
    assert [a.name for a in read_adapters(out, base="tiny-llama")] == ["object", "vl"]
    assert load_crayon(out / "crayon", base="tiny-llama").shape.tokens == 6
    assert json.loads((out / CARD).read_text()) == json.loads(json.dumps(card))
    assert card["settings"]["seed"] == 0
    assert card["steps"] == 12
    assert set(card["heldout_loss"]["base"]) == {"map", "object", "vl"}
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG") == card["plot"]


def test_a_folder_with_a_run_is_not_written_over(whole: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(TrainingRefused, match="holds a run"):
        run(whole[0])
    with pytest.raises(TrainingRefused, match="other settings"):
        run(whole[0], replace(QUICK, seed=9), resume=True)
    with pytest.raises(TrainingRefused, match="no gradients"):
        run(whole[0], replace(QUICK, base=replace(QUICK.base, precision="nf4")))


class Watch(TrainerCallback):
    """Notes which tensors each step moved."""

    def __init__(self) -> None:
        self.moved: list[tuple[int, set[str]]] = []
        self._before: dict[str, torch.Tensor] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._before = {name: value.clone() for name, value in model.trained_tensors().items()}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        now = model.trained_tensors()
        names = {name for name, value in now.items() if not torch.equal(value, self._before[name])}
        parts = {"crayon" if name.startswith("crayon.") else name.rsplit(".", 2)[1] for name in names}
        self.moved.append((state.max_steps, parts))


def test_each_stage_moves_its_parts_only(tmp_path: Path) -> None:
    watch = Watch()
    # Every example has a map: one without leaves the crayon prompt as it is.
    run(tmp_path, replace(QUICK, views=Views(both=0.5, map_only=0.5, text_only=0.0)), callbacks=[watch])
    tasks = [json.loads(line)["task"] for line in lines(tmp_path)]
    assert {"object", "vl"} == set(tasks[5:])
    for number, ((steps, parts), task) in enumerate(zip(watch.moved, tasks, strict=True)):
        # The first step of a stage warms up with a rate of zero.
        expected = {"crayon"} if steps == 5 else {"crayon", task}
        assert parts == (set() if number in (0, 5) else expected)


def test_the_crayon_prompt_can_be_frozen_in_the_second_stage(tmp_path: Path) -> None:
    frozen = replace(QUICK, stages=(replace(QUICK.stages[1], steps=3, trains_crayon=False),))
    watch = Watch()
    card = run(tmp_path, frozen, callbacks=[watch])
    tasks = [json.loads(line)["task"] for line in lines(tmp_path)]
    assert [parts for _, parts in watch.moved] == [set(), *({task} for task in tasks[1:])]
    # What the map alone answers is looked at whether or not a stage trains for it.
    assert set(card["heldout_loss"]["base"]) == {"map", "object", "vl"}


def test_accumulated_checkpointed_and_bucketed_steps_train_as_plain_ones(tmp_path: Path) -> None:
    batch = BatchSettings(sequences=2, accumulation=2, questions=1, max_tokens=300, bucket_steps=3)
    stages = (StageSettings("cit", 3, 1e-2, 1e-3, 1),)
    plain = replace(QUICK, batch=batch, stages=stages)
    thrifty = replace(plain, batch=replace(batch, checkpointing=True))
    run(tmp_path / "plain", plain)
    run(tmp_path / "thrifty", thrifty)
    one, other = ([json.loads(line) for line in lines(tmp_path / name)] for name in ("plain", "thrifty"))
    assert len(one) == 3
    for step, same in zip(one, other, strict=True):
        assert (step["task"], step["data"]) == (same["task"], same["data"])
        assert step["loss"] == pytest.approx(same["loss"], rel=1e-4)


def test_a_killed_process_goes_on(
    whole: tuple[Path, dict[str, Any]], run_killed: Callable[..., None], tmp_path: Path
) -> None:
    run_killed(Path(__file__), tmp_path, "cit", 5)
    assert len(lines(tmp_path)) == 10
    run(tmp_path, resume=True)
    assert lines(tmp_path) == lines(whole[0])


def test_scenes_side_by_side_learn_what_a_batch_of_them_learns(tmp_path: Path) -> None:
    batch = BatchSettings(sequences=2, questions=2, max_tokens=300)
    stages = (StageSettings("cpt", 2, 1e-2, 1e-3, 1), StageSettings("cit", 4, 1e-2, 1e-3, 1))
    together = replace(QUICK, batch=replace(batch, side_by_side=2), stages=stages)
    run(tmp_path / "together", together)
    run(tmp_path / "again", together)
    assert lines(tmp_path / "together") == lines(tmp_path / "again")
    run(tmp_path / "batch", replace(together, batch=batch))
    for one, other in zip(lines(tmp_path / "together"), lines(tmp_path / "batch"), strict=True):
        # The mean of two scenes' means is not the mean over both scenes' tokens.
        assert json.loads(one)["task"] == json.loads(other)["task"]
        assert json.loads(one)["loss"] == pytest.approx(json.loads(other)["loss"], rel=0.2)
    packed = pack(tiny_tokenizer(), "Seen.", [("What?", "A dog.")], max_tokens=300)
    with pytest.raises(ValueError, match="cannot be shared"):
        collate_inputs([("vl", [ImagePacked(packed)])], pad_id=0, parts=2)
    with pytest.raises(TrainingRefused, match="side by side"):
        run(tmp_path / "refused", replace(together, batch=replace(together.batch, checkpointing=True)))


def test_variants_leave_out_the_part_that_they_name(tmp_path: Path) -> None:
    seen = replace(QUICK, views=Views(both=1.0, map_only=0.0, text_only=0.0))
    single = Watch()
    run(tmp_path / "single", varied(seen, "single", "both"), callbacks=[single])
    assert {"object", "vl"} == {json.loads(line)["task"] for line in lines(tmp_path / "single")[5:]}
    assert all("object" not in parts for _, parts in single.moved)
    alone, off = Watch(), varied(seen, "vl-only", "off")
    assert [(stage.kind, stage.steps) for stage in off.stages] == [("cit", 4)]
    run(tmp_path / "off", off, callbacks=[alone])
    assert [parts for _, parts in alone.moved] == [set(), {"vl"}, {"vl"}, {"vl"}]
    assert not (tmp_path / "off" / "crayon").exists()
    semantic = varied(seen, "dual", "semantic")
    run(tmp_path / "semantic", semantic)
    assert json.loads((tmp_path / "semantic" / "crayon" / CONFIG).read_text())["crayon_queries"] == "semantic"
    torch.manual_seed(semantic.seed)
    fresh = DualModel(adapted(base(), rank=8, alpha=16), crayon_for(base(), semantic.crayon))
    kept = load_crayon(tmp_path / "semantic" / "crayon", base="tiny-llama")
    assert not torch.equal(kept.semantic.weight, fresh.crayon.semantic.weight.bfloat16().float())


def test_a_budget_makes_the_schedule_which_a_resumed_run_keeps(tmp_path: Path) -> None:
    planned: list[DualSettings] = []
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, budget_s=3600.0, planned=planned.append, step_done=cut)
    assert planned[0].steps > 100
    with pytest.raises(TrainingRefused, match="holds a run"):
        run(tmp_path, budget_s=60.0)
    assert as_begun(QUICK, tmp_path) == planned[0]
    few = within_budget(EMBEDDED, 3 * 3600, 4.4)
    assert few.steps <= EMBEDDED.steps * 1.05
    assert [stage.kind for stage in few.stages] == ["cpt", "cit"]
    with pytest.raises(TrainingRefused, match="no room"):
        within_budget(EMBEDDED, 5.0, 4.4)
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(TrainingRefused, match="not of a run"):
        as_begun(QUICK, tmp_path)


def test_a_run_goes_on_from_the_adapters_of_another(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, card = whole
    settings = replace(QUICK, stages=(StageSettings("cpt", 3, 1e-2, 1e-3, 1),))
    own = run(tmp_path / "own", settings, begin_from=out)
    assert len(own["settings"]["begun_from"]) == 64
    assert card["settings"]["begun_from"] is None
    # Crayon prompt tuning leaves adapters as they are.
    for task in ("object", "vl"):
        name = f"{task}/adapter_model.safetensors"
        assert (tmp_path / "own" / name).read_bytes() == (out / name).read_bytes()
    with pytest.raises(TrainingRefused, match="other settings"):
        run(tmp_path / "own", settings, resume=True)
    with pytest.raises(TrainingRefused, match="rank=8, alpha=16"):
        run(tmp_path / "rank", replace(settings, adapters=AdapterSettings(4, 8)), begin_from=out)
    with pytest.raises(TrainingRefused, match="for tiny-llama, not other"):
        run(tmp_path / "base", replace(settings, base=replace(settings.base, name="other")), begin_from=out)
    with pytest.raises(TrainingRefused, match="no adapter"):
        run(tmp_path / "none", settings, begin_from=tmp_path)


def test_a_run_goes_on_from_the_crayon_prompt_of_another(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, _ = whole
    # A step that moves next to nothing leaves what it began with.
    still = replace(QUICK, stages=(StageSettings("cit", 1, 1e-9, 0.0, 1),))
    card = run(tmp_path / "still", still, begin_from=out)
    for part in ("object/adapter_model", "vl/adapter_model", "crayon/crayon_model"):
        left, began = (load_file(folder / f"{part}.safetensors") for folder in (tmp_path / "still", out))
        torch.testing.assert_close(left, began, atol=1e-6, rtol=0.0)
    assert set(card["heldout_loss"]["trained"]) == {"map", "object", "vl"}
    with pytest.raises(TrainingRefused, match="both of its tables"):
        run(tmp_path / "semantic", replace(still, crayon_queries="semantic"), begin_from=out)
    other = replace(still, crayon=replace(still.crayon, rows=still.crayon.rows + 1))
    with pytest.raises(TrainingRefused, match="the run's crayon prompt"):
        run(tmp_path / "grid", other, begin_from=out)
    # Without image positions there is nothing to go on from.
    run(tmp_path / "off", replace(still, crayon_queries="off"), begin_from=out)
    assert not (tmp_path / "off" / "crayon").exists()


def cut(number: int, kind: str, step: int, steps: int, loss: float) -> None:
    raise KeyboardInterrupt


def test_the_embedded_run_fits_three_hours_and_forty_megabytes() -> None:
    """At 2.2 s a scene; the shapes of SmolLM2-135M, without its weights."""
    scenes = EMBEDDED.steps * EMBEDDED.batch.sequences * EMBEDDED.batch.accumulation
    assert scenes * 2.2 < 0.92 * 3 * 3600
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = adapted(LlamaForCausalLM(config), rank=EMBEDDED.adapters.rank, alpha=EMBEDDED.adapters.alpha)
        dual = DualModel(model, crayon_for(model, EMBEDDED.crayon))
    # Written in bfloat16.
    assert 15e6 < 2 * sum(value.numel() for value in dual.trained_tensors().values()) < 40e6


def test_tensors_of_another_model_are_not_restored(tmp_path: Path) -> None:
    dual = dual_model()
    dual.save(tmp_path)
    with torch.no_grad():
        dual.crayon.semantic.weight.add_(1.0)
        changed = dual.crayon.semantic.weight.clone()
    dual.restore(tmp_path)
    torch.testing.assert_close(dual.crayon.semantic.weight, changed - 1.0)
    other = dual_model(replace(QUICK, crayon=replace(QUICK.crayon, width=4)))
    with pytest.raises(ValueError, match="another model"):
        other.restore(tmp_path)


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / WHOLE).touch()
    (tmp_path / "checkpoint-11").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    with pytest.raises(ValueError, match="one at a time"):
        collate_inputs([("vl", []), ("vl", [])], pad_id=0)


def test_a_curve_keeps_the_steps_it_is_told_to_and_no_others(tmp_path: Path) -> None:
    curve = LossCurve(tmp_path / "losses.jsonl")
    curve.begin(0)
    for number in range(1, 5):
        curve.add(Step(number, "vl", 1.0 / number, f"{number}"))
    again = LossCurve(tmp_path / "losses.jsonl")
    again.begin(2)
    assert again.steps == curve.steps[:2]
    assert data_sha256(again.steps) != data_sha256(curve.steps)
    assert len((tmp_path / "losses.jsonl").read_text().splitlines()) == 2
    with pytest.raises(ValueError, match="first 3"):
        again.begin(3)
    assert plot([("cpt", curve.steps), ("cit", curve.steps)], tmp_path / "loss.png")


def test_better_means_every_loss_fell() -> None:
    before = {"map": 2.0, "object": 2.0, "vl": 2.0}
    assert improved({"base": before, "trained": {"map": 1.0, "object": 1.7, "vl": 0.1}})
    assert not improved({"base": before, "trained": {"map": 1.0, "object": 1.9, "vl": 0.1}})

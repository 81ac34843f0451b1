"""Examples are drawn by number, show what their view says, and steps are planned from the seed alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llm_server.tiny_model import tiny_tokenizer
from llm_server.training.coco_pictures import NumberedObject, Picture
from llm_server.training.conversations import Conversation
from llm_server.training.crayon_instructions import answer
from llm_server.training.dual_families import FAMILIES
from llm_server.training.dual_settings import (
    EMBEDDED,
    FURTHER,
    SEVEN_B,
    TINY,
    BatchSettings,
    DualSettings,
    StageSettings,
    TrainingRefused,
    Views,
    check,
    for_base,
    smoke,
)
from llm_server.training.examples import (
    ConversationExamples,
    Example,
    MixedExamples,
    PictureExamples,
    SceneExamples,
)
from llm_server.training.question import Task
from llm_server.training.scene_maps import Maps
from llm_server.training.scenes import Scene
from llm_server.training.step_plan import MicroBatches, StepPlan
from llm_server.training.vocabulary import STUFF, THINGS

LABELS = {name: [number] for number, name in enumerate(THINGS + STUFF)}
STAGE = StageSettings("cit", 24, 1e-3, 1e-4, 2)


def words(scene: Scene) -> str:
    return f"The image includes {len(scene.objects)} objects."


def object_words(objects: Sequence[NumberedObject]) -> str:
    return answer(objects, boxes=True)


def scenes(settings: DualSettings = TINY, split: Any = "train") -> SceneExamples:
    return SceneExamples(settings, split, words, LABELS)


def viewed(**views: float) -> DualSettings:
    return replace(TINY, views=Views(**{"both": 0.0, "map_only": 0.0, "text_only": 0.0, **views}))


def test_a_number_draws_the_same_example_always_and_each_split_its_own() -> None:
    first, again, heldout = scenes(), scenes(), scenes(split="heldout")
    for number in range(8):
        one, same = first.draw("cit", "vl", number), again.draw("cit", "vl", number)
        assert (one.text, one.pairs) == (same.text, same.pairs)
        assert (one.maps is None) == (same.maps is None)
        if one.maps is not None and same.maps is not None:
            assert np.array_equal(one.maps.classes, same.maps.classes)
        assert one.pairs != heldout.draw("cit", "vl", number).pairs


def test_views_show_words_maps_or_both() -> None:
    both = [scenes(viewed(both=1.0)).draw("cit", "object", n) for n in range(6)]
    assert all(one.text and one.maps is not None for one in both)
    text = [scenes(viewed(text_only=1.0)).draw("cit", "object", n) for n in range(6)]
    assert all(one.text and one.maps is None for one in text)
    maps = [scenes(viewed(map_only=1.0)).draw("cit", "vl", n) for n in range(30)]
    assert all(not one.text and one.maps is not None for one in maps)
    asked = " ".join(q for one in maps for q, _ in one.pairs)
    assert "written" not in asked
    assert "riding" not in asked


def test_crayon_prompt_tuning_sees_the_map_alone() -> None:
    drawn = [scenes(viewed(text_only=1.0)).draw("cpt", "object", n) for n in range(40)]
    assert all(not one.text and one.maps is not None for one in drawn)
    assert any(a.startswith("Sure, it is (#1") for one in drawn for _, a in one.pairs)


PICTURE = Picture(
    "1.jpg",
    (NumberedObject("person", 1, (0.0, 0.0, 0.5, 1.0)), NumberedObject("person", 2, (0.5, 0.0, 1.0, 1.0))),
    Maps(np.ones((2, 2), np.uint8), np.array([[1, 2], [1, 2]], np.uint8)),
)
OTHER = replace(PICTURE, file="2.jpg", objects=PICTURE.objects[:1])


def test_annotated_pictures_ask_the_crayon_questions_with_one_numbering() -> None:
    source = PictureExamples(viewed(both=1.0), [PICTURE, OTHER], object_words)
    seen = [source.draw("cit", "object", n) for n in range(6)]
    for pair in (seen[0:2], seen[2:4], seen[4:6]):
        assert {one.text for one in pair} == {object_words(PICTURE.objects), object_words(OTHER.objects)}
    for one in seen:
        for _, said in one.pairs:
            assert all(
                part in one.text for part in said.removeprefix("Sure, it is ").rstrip(".").split("), ")[0:1]
            )
    assert not source.draw("cpt", "object", 0).text
    with pytest.raises(ValueError, match="no annotated picture"):
        PictureExamples(TINY, [], object_words)


def test_conversations_are_joined_with_what_is_annotated() -> None:
    said = [
        Conversation("1", "coco/train2017/1.jpg", (("What?", "A man."), ("Where?", "Left."))),
        Conversation("2", "coco/train2017/9.jpg", (("What?", "A dog."),)),
    ]
    skipped: Counter[str] = Counter()
    source = ConversationExamples(TINY, said, {"1.jpg": PICTURE}, object_words, skipped=skipped)
    assert skipped == {"picture not annotated": 1}
    one = source.draw("cit", "vl", 3)
    assert one.chained
    assert one.pairs == said[0].turns
    assert one.maps is PICTURE.maps
    with pytest.raises(ValueError, match="no conversation"):
        ConversationExamples(TINY, said[1:], {"1.jpg": PICTURE}, object_words, skipped=skipped)


def test_sources_are_mixed_by_weight() -> None:
    pictures = PictureExamples(viewed(both=1.0), [PICTURE], object_words)
    sources: dict[Task, Any] = {"object": [(3.0, scenes()), (1.0, pictures)], "vl": [(1.0, scenes())]}
    mixed = MixedExamples(1, sources)
    share = sum(mixed.draw("cit", "object", n).text == object_words(PICTURE.objects) for n in range(120))
    assert 15 < share < 48
    with pytest.raises(ValueError, match="every task"):
        MixedExamples(1, {"object": sources["object"]})


def micro(
    batch: BatchSettings, stage: StageSettings = STAGE, seed: int = 3, source: Any = None
) -> MicroBatches:
    examples = source or scenes(replace(TINY, batch=batch))
    return MicroBatches(stage, batch, examples, tiny_tokenizer(), seed=seed, vl_share=0.5)


def test_every_micro_batch_of_a_step_is_of_its_task_and_no_example_is_read_twice() -> None:
    batch = BatchSettings(sequences=2, accumulation=3, questions=2, max_tokens=700, bucket_steps=4)
    stage = replace(STAGE, steps=6)
    data = micro(batch, stage)
    assert len(data) == 18
    read = [data[i] for i in range(len(data))]
    for step in range(6):
        assert {read[3 * step + part][0] for part in range(3)} == {data.plan.tasks[step]}
        assert all(len(read[3 * step + part][1]) == 2 for part in range(3))
    for task in ("object", "vl"):
        own = [one.packed.ids for t, group in read for one in group if t == task]
        assert len(set(own)) > 0.9 * len(own)
    with pytest.raises(IndexError):
        data[18]


def test_bucketing_pads_less_and_reads_the_same() -> None:
    plain = BatchSettings(sequences=2, accumulation=1, questions=2, max_tokens=700, bucket_steps=1)
    sorted_ = replace(plain, bucket_steps=12)
    stage = replace(STAGE, steps=12)

    def padding(data: MicroBatches) -> tuple[int, Counter[Any]]:
        groups = [data[i][1] for i in range(len(data))]
        wasted = sum(max(map(len, group)) * len(group) - sum(map(len, group)) for group in groups)
        return wasted, Counter(one.packed.ids for group in groups for one in group)

    (unsorted, read), (bucketed, same) = padding(micro(plain, stage)), padding(micro(sorted_, stage))
    assert read == same
    assert bucketed < 0.6 * unsorted


def test_a_plan_follows_from_its_seed() -> None:
    def plan(seed: int) -> StepPlan:
        return StepPlan(STAGE, BatchSettings(), seed=seed, vl_share=0.5)

    assert plan(1).tasks == plan(1).tasks != plan(2).tasks
    assert set(plan(1).tasks) == {"object", "vl"}
    assert set(StepPlan(STAGE, BatchSettings(), seed=1, vl_share=1.0).tasks) == {"vl"}


class Long:
    """Only one in three examples is short enough."""

    def draw(self, stage: Any, task: Task, number: int) -> Example:
        return Example("long " * (2000 if number % 3 else 1), None, ((f"What is {number}?", "It."),))


class TooLong:
    def draw(self, stage: Any, task: Task, number: int) -> Example:
        return Example("long " * 2000, None, (("What?", "It."),))


def test_what_is_too_long_is_replaced() -> None:
    batch = BatchSettings(questions=1, max_tokens=200)
    data = micro(batch, source=Long())
    found = [data.packed("vl", number).packed.ids for number in range(9)]
    assert len(set(found)) == 9
    assert data.packed("vl", 4).packed.ids == found[4]
    with pytest.raises(ValueError, match="do not fit"):
        micro(batch, source=TooLong()).packed("vl", 0)


def test_settings_refuse_what_would_train_wrongly() -> None:
    four_bit = replace(TINY, base=replace(TINY.base, precision="nf4"))
    with pytest.raises(TrainingRefused, match="no gradients"):
        check(four_bit, cuda=False)
    with pytest.raises(TrainingRefused, match="no CUDA device"):
        check(SEVEN_B, cuda=False)
    with pytest.raises(TrainingRefused, match="no stage"):
        check(replace(TINY, stages=()), cuda=False)
    check(SEVEN_B, cuda=True)
    check(EMBEDDED, cuda=False)
    wrong: tuple[dict[str, Any], ...] = (
        {"steps": 0},
        {"final_rate": 1.0},
        {"kind": "cpt", "trains_crayon": False},
    )
    for change in wrong:
        with pytest.raises(ValueError, match=r"cannot be|trains the crayon"):
            replace(STAGE, **change)


def test_what_is_practised_is_asked_more_often() -> None:
    def lists(settings: DualSettings) -> int:
        drawn = (scenes(settings).draw("cit", "object", n) for n in range(60))
        return sum("list" in question.lower() for one in drawn for question, _ in one.pairs)

    text_only = viewed(text_only=1.0)
    usual = lists(text_only)
    assert usual > 0
    practised = replace(text_only, practised=("list", "list_numbered", "list_boxes"))
    assert lists(practised) > 1.3 * usual
    known = {family.kind for row in FAMILIES.values() for family in row}
    assert set(FURTHER.practised) <= known


def test_presets_differ_in_values_only() -> None:
    assert (SEVEN_B.adapters.rank, SEVEN_B.adapters.alpha) == (64, 64)
    assert SEVEN_B.batch.sequences * SEVEN_B.batch.accumulation == 32
    assert [s.kind for s in SEVEN_B.stages] == [s.kind for s in EMBEDDED.stages] == ["cpt", "cit"]
    assert [s.learning_rate for s in SEVEN_B.stages] == [1e-4, 1e-5]
    assert for_base(SEVEN_B, "some-7b").base.name == "some-7b"
    short = smoke(EMBEDDED, cpt=3, cit=20)
    assert [(s.steps, s.warmup) for s in short.stages] == [(3, 1), (20, 2)]
    assert short.steps == 23

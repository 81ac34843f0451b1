"""`polysight train`: the older form keeps its meaning, names of classes reach the map, what cannot be is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.train import app
from cli.train_dual import SMOKE_STEPS, category_labels, object_words, scene_labels
from cli.train_moai import moai_words
from llm_server.training.coco_pictures import NumberedObject
from llm_server.training.scenes import Scene, SceneObject, SceneRelation
from llm_server.training.vocabulary import STUFF, THINGS

RUNNER = CliRunner()
GOLDEN = Path(__file__).parents[2] / "parity" / "golden" / "checkpoints"


def run(*args: Any) -> Any:
    return RUNNER.invoke(app, [str(arg) for arg in args])


def test_every_class_of_a_scene_has_a_place_in_the_map() -> None:
    labels = scene_labels()
    assert set(THINGS + STUFF) <= set(labels)
    assert sorted(index for found in labels.values() for index in found) == list(range(133))
    assert len(labels["wall"]) > 1 or labels["wall"]
    assert category_labels()["wall-other-merged"] == (131,)


def test_annotated_objects_are_said_with_their_own_numbers() -> None:
    horse = NumberedObject("horse", 1, (0.06, 0.38, 0.27, 0.91))
    assert object_words([horse]) == "The image includes (#1 horse) [0.06, 0.38, 0.27, 0.91]."


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--steps", "0"), "--steps"),
        ((), "--out"),
        (("scenes",), "--out"),
        (("dual",), "--out"),
        (("dual", "--smoke", "--device", "tpu"), "--device"),
        (("dual", "--smoke", "--precision", "int3"), "--precision"),
        (("dual", "--smoke", "--base", "nowhere"), "--base"),
        (("dual", "--smoke", "--adapters", "none"), "--adapters"),
        (("dual", "--smoke", "--crayon", "some"), "--crayon"),
        (("dual", "--smoke", "--minutes", "3"), "--minutes"),
        (("moai", "--out", "nowhere"), "--checkpoint"),
        (("moai", "--checkpoint", GOLDEN / "moai-tiny", "--out", "nowhere", "--device", "tpu"), "--device"),
        (("moai", "--checkpoint", GOLDEN / "collavo-tiny", "--out", "nowhere", "--smoke"), "no MoAI"),
        (("moai", "--checkpoint", GOLDEN, "--out", "nowhere", "--smoke"), "no safetensors"),
        (
            ("moai", "--checkpoint", GOLDEN / "moai-tiny", "--out", "x", "--smoke", "--precision", "nf4"),
            "gradients",
        ),
    ],
)
def test_options_are_those_of_the_command_that_is_meant(args: tuple[Any, ...], said: str) -> None:
    done = run(*args)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_help_names_all() -> None:
    text = run("--help").output
    assert all(name in text for name in ("dual", "scenes", "moai"))
    assert "--resume" in run("dual", "--help").output


def test_a_four_bit_base_on_a_cpu_and_conversations_without_annotations_are_refused(tmp_path: Path) -> None:
    refused = run("dual", "--smoke", "--precision", "nf4")
    assert refused.exit_code == 2
    assert "no gradients" in " ".join(refused.output.split())
    told = tmp_path / "told.json"
    told.write_text(json.dumps([]))
    alone = run("dual", "--smoke", "--conversations", told)
    assert alone.exit_code == 2
    assert "--coco" in alone.output


def annotated(folder: Path) -> tuple[Path, Path]:
    """Four pictures of one horse, a malformed object; a conversation about one of them, one about none."""
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 40, "width": 60} for n in range(4)]
    left = {"category_id": 19, "bbox": [0, 0, 30, 40], "segmentation": [[0, 0, 30, 0, 30, 40, 0, 40]]}
    objects = [{**left, "image_id": n} for n in range(4)] + [{**left, "image_id": 0, "bbox": "wide"}]
    coco, told = folder / "coco.json", folder / "told.json"
    categories = [{"id": 19, "name": "horse"}]
    coco.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A horse."}]
    records = [{"image": f"train/{name}.jpg", "conversations": turns} for name in ("2", "9")]
    told.write_text(json.dumps(records))
    return coco, told


def test_a_smoke_run_on_all_sources_improves_and_reports_what_it_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SMOKE_STEPS, "tiny", (12, 30))
    coco, told = annotated(tmp_path)
    done = run(
        "dual", "--smoke", "--coco", coco, "--conversations", told, "--out", tmp_path / "out", "--json"
    )
    assert done.exit_code == 0, done.output
    card = json.loads(done.stdout.splitlines()[-1])
    assert card["improved"]
    assert card["skipped"] == {"object without a box": 1, "picture not annotated": 1}
    assert (tmp_path / "out" / "crayon" / "crayon_config.json").is_file()
    again = run("dual", "--smoke", "--coco", coco, "--out", tmp_path / "out")
    assert again.exit_code == 2
    assert "resume" in again.output


def test_a_smoke_run_that_learns_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SMOKE_STEPS, "tiny", (1, 1))
    assert run("dual", "--smoke").exit_code == 1


def test_the_four_experts_speak_of_a_scene_in_the_published_words() -> None:
    dog, ball = (
        SceneObject("dog", 1, (0.1, 0.2, 0.5, 0.6), 0.1),
        SceneObject("sports ball", 1, (0.5, 0.5, 0.6, 0.6), 0.01),
    )
    said = moai_words(Scene((dog, ball), (SceneRelation(0, "chasing", 1),), ("STOP",)))
    boxes = "The image includes bounding box coordinates and their objects: "
    told = f"{boxes}[0.10, 0.20, 0.50, 0.60] dog, and [0.50, 0.50, 0.60, 0.60] sports ball."
    assert said["regions"] == said["detections"] == told
    assert (
        said["relations"] == "The image includes relationships between objects: dog is chasing sports ball."
    )
    assert said["text"] == "The image includes text descriptions: STOP."
    assert set(moai_words(Scene((), (), ())).values()) == {""}


def test_moai_s_smoke_run_says_whether_it_learnt(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("moai", "--smoke", "--steps", 8, "--checkpoint", GOLDEN / "moai-tiny", "--out", out, "--json")
    card = json.loads(done.stdout.splitlines()[-1])
    assert done.exit_code == (0 if card["improved"] else 1)
    assert card["steps"] == 16
    assert card["loss"]["after_step2"]["seen"] < card["loss"]["before"]["seen"]
    assert (out / "checkpoint" / "config.json").read_bytes() == (
        GOLDEN / "moai-tiny" / "config.json"
    ).read_bytes()

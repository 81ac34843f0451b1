"""`polysight train`: the older form keeps its meaning, names of classes reach the map, what cannot be is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.train import app
from cli.train_dual import category_labels, object_words, scene_labels
from llm_server.training.coco_pictures import NumberedObject
from llm_server.training.vocabulary import STUFF, THINGS

RUNNER = CliRunner()


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
    ],
)
def test_options_are_those_of_the_command_that_is_meant(args: tuple[str, ...], said: str) -> None:
    done = run(*args)
    assert done.exit_code == 2
    assert said in done.output


def test_help_names_both() -> None:
    text = run("--help").output
    assert "dual" in text
    assert "scenes" in text
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

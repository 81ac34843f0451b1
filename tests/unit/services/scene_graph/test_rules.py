"""Each rule on drawn scenes: what it says, and what it must not say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from services.scene_graph.geometry import Scene
from services.scene_graph.predicates import PREDICATES
from services.scene_graph.rules import LEAST_STRENGTH, RULES, relations
from serving.coco import COCO_80

HEIGHT, WIDTH = 160, 240
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Thing:
    """A class and the rectangles (x0, y0, x1, y1) it is drawn with, in cells."""

    name: str
    parts: tuple[Box, ...]


def thing(name: str, *parts: Box) -> Thing:
    return Thing(name, parts)


def drawn(*things: Thing) -> Scene:
    """A scene, painted from far to near: what comes later hides what is behind it. Boxes are of what is seen."""
    canvas = np.full((HEIGHT, WIDTH), -1)
    for index, one in enumerate(things):
        for x0, y0, x1, y1 in one.parts:
            canvas[y0:y1, x0:x1] = index
    masks = np.stack([canvas == index for index in range(len(things))])
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append(
            [columns[0] / WIDTH, rows[0] / HEIGHT, (columns[-1] + 1) / WIDTH, (rows[-1] + 1) / HEIGHT]
        )
    return Scene(
        labels=np.array([COCO_80.index(one.name) for one in things], np.int64),
        scores=np.linspace(0.95, 0.9, len(things)),
        boxes=np.array(boxes),
        masks=masks,
    )


def said(scene: Scene) -> list[str]:
    names = [COCO_80[label] for label in scene.labels]
    found = relations(scene, threshold=0.3)
    return [f"{names[one.subject]} {one.predicate} {names[one.object]}" for one in found]


MAN = thing("person", (100, 20, 130, 130))
FAR_MAN = thing("person", (110, 50, 125, 100))
CHAIR = thing("chair", (90, 60, 96, 125), (90, 90, 130, 100), (124, 100, 130, 125))
SITTER = thing("person", (97, 30, 120, 92), (105, 92, 125, 122))
TABLE = thing("dining table", (20, 90, 200, 105), (25, 105, 35, 150), (185, 105, 195, 150))
BUS = thing("bus", (20, 20, 220, 120))

SPEAKS: dict[str, tuple[tuple[Thing, ...], str]] = {
    "tie on the chest": ((MAN, thing("tie", (112, 45, 117, 75))), "person wearing tie"),
    "backpack on the back": ((MAN, thing("backpack", (102, 45, 122, 80))), "person wearing backpack"),
    "glove at the end of the arm": (
        (
            thing("person", (100, 20, 130, 130), (130, 40, 150, 50)),
            thing("baseball glove", (136, 42, 146, 50)),
        ),
        "person wearing baseball glove",
    ),
    "astride a bicycle": (
        (thing("bicycle", (80, 80, 150, 140)), thing("person", (100, 20, 130, 125))),
        "person riding bicycle",
    ),
    "astride a horse": (
        (thing("horse", (70, 70, 160, 145)), thing("person", (100, 20, 125, 105))),
        "person riding horse",
    ),
    "feet on a skateboard": (
        (MAN, thing("skateboard", (90, 128, 140, 138))),
        "person riding skateboard",
    ),
    "feet on a surfboard": (
        (thing("surfboard", (70, 120, 170, 138)), MAN),
        "person riding surfboard",
    ),
    "feet on skis": ((MAN, thing("skis", (80, 128, 150, 134))), "person standing on skis"),
    "flat on a bed": (
        (thing("bed", (30, 60, 210, 140)), thing("person", (50, 70, 180, 100))),
        "person lying on bed",
    ),
    "cat flat on a couch": (
        (thing("couch", (30, 50, 210, 140)), thing("cat", (80, 85, 140, 110))),
        "cat lying on couch",
    ),
    "dog upright on a couch": (
        (thing("couch", (30, 50, 210, 140)), thing("dog", (100, 60, 130, 105))),
        "dog sitting on couch",
    ),
    "on a chair": ((CHAIR, SITTER), "person sitting on chair"),
    "on a bench": (
        (thing("bench", (40, 80, 200, 130)), thing("person", (100, 40, 125, 128))),
        "person sitting on bench",
    ),
    "food at the mouth": ((MAN, thing("sandwich", (108, 36, 120, 44))), "person eating sandwich"),
    "cup at the mouth": ((MAN, thing("cup", (110, 36, 118, 46))), "person drinking cup"),
    "phone in the hand": ((MAN, thing("cell phone", (128, 70, 135, 82))), "person holding cell phone"),
    "racket in the hand": (
        (MAN, thing("tennis racket", (130, 60, 158, 72))),
        "person holding tennis racket",
    ),
    "umbrella over the head": (
        (thing("person", (100, 40, 130, 150)), thing("umbrella", (85, 12, 150, 30), (114, 30, 117, 70))),
        "person holding umbrella",
    ),
    "suitcase clear of the ground": (
        (MAN, thing("suitcase", (130, 75, 152, 112))),
        "person carrying suitcase",
    ),
    "surfboard under the arm": (
        (MAN, thing("surfboard", (130, 30, 142, 110))),
        "person carrying surfboard",
    ),
    "driver in the window": ((BUS, thing("person", (60, 40, 75, 62))), "person in bus"),
    "sailor over the side": (
        (thing("person", (110, 40, 130, 105)), thing("boat", (60, 90, 190, 130))),
        "person in boat",
    ),
    "banana in a bowl": (
        (thing("bowl", (80, 70, 150, 110)), thing("banana", (95, 72, 130, 92))),
        "banana in bowl",
    ),
    "plant in a vase": (
        (thing("vase", (100, 80, 130, 130)), thing("potted plant", (104, 70, 126, 105))),
        "potted plant in vase",
    ),
    "cup on a table": ((TABLE, thing("cup", (90, 75, 105, 95))), "cup on dining table"),
    "book on a bed": (
        (thing("bed", (30, 60, 210, 140)), thing("book", (90, 80, 120, 95))),
        "book on bed",
    ),
    "kite in the sky": (
        (thing("person", (100, 80, 120, 140)), thing("kite", (95, 10, 130, 35))),
        "kite flying over person",
    ),
    "airplane above a boat": (
        (thing("boat", (60, 110, 190, 140)), thing("airplane", (80, 10, 170, 40))),
        "airplane flying over boat",
    ),
    "traffic light above a car": (
        (thing("car", (80, 70, 160, 130)), thing("traffic light", (110, 35, 122, 62))),
        "traffic light over car",
    ),
    "hand on a laptop": (
        (thing("person", (80, 30, 120, 130)), thing("laptop", (120, 70, 165, 105))),
        "person touching laptop",
    ),
    "before a bus": ((BUS, thing("person", (100, 40, 130, 140))), "person in front of bus"),
    "half before a bus": ((BUS, thing("person", (205, 40, 235, 140))), "person in front of bus"),
    "chair before a man": (
        (thing("person", (100, 20, 140, 120)), thing("chair", (105, 70, 135, 135))),
        "chair in front of person",
    ),
    "two people side by side": (
        (thing("person", (60, 30, 90, 130)), thing("person", (98, 34, 126, 132))),
        "person beside person",
    ),
    "two cars side by side": (
        (thing("car", (20, 80, 100, 130)), thing("car", (112, 82, 190, 131))),
        "car beside car",
    ),
    "shown on a screen": (
        (thing("tv", (40, 20, 200, 120)), thing("person", (90, 40, 130, 90))),
        "tv enclosing person",
    ),
}

SILENT: dict[str, tuple[Thing, ...]] = {
    "one object": (MAN,),
    "far apart": (thing("person", (10, 20, 30, 120)), thing("person", (200, 20, 220, 120))),
    "tie beside the man": (MAN, thing("tie", (150, 45, 155, 75))),
    "cup high above the table": (TABLE, thing("cup", (90, 20, 105, 40))),
    "cup under the table": (TABLE, thing("cup", (90, 120, 105, 140))),
    "phone near, but not in the hand": (MAN, thing("cell phone", (140, 70, 146, 82))),
    "small man in the distance, higher up": (thing("car", (80, 100, 150, 140)), FAR_MAN),
    "kite beside the man": (MAN, thing("kite", (180, 10, 210, 35))),
    "a toilet and its own cistern taken for a sink": (
        thing("toilet", (30, 50, 120, 155)),
        thing("sink", (40, 40, 115, 100)),
    ),
}


def test_all_rules_are_in_the_table() -> None:
    """A rule without a case here would be a rule nobody has seen at work."""
    expected = {sentence for _, sentence in SPEAKS.values()}
    for rule in RULES:
        own = {f"{s} {rule.predicate} {o}" for s in rule.subjects for o in rule.objects}
        assert own & expected, f"no case for {rule.predicate}: {sorted(rule.subjects)[:3]}"


@pytest.mark.parametrize("name", SPEAKS)
def test_the_rule_speaks_and_alone(name: str) -> None:
    things, sentence = SPEAKS[name]
    assert said(drawn(*things)) == [sentence]


@pytest.mark.parametrize("name", SPEAKS)
def test_the_rule_speaks_in_the_mirror(name: str) -> None:
    things, sentence = SPEAKS[name]
    mirrored = [
        Thing(one.name, tuple((WIDTH - x1, y0, WIDTH - x0, y1) for x0, y0, x1, y1 in one.parts))
        for one in things
    ]
    assert said(drawn(*mirrored)) == [sentence]


@pytest.mark.parametrize("name", SILENT)
def test_what_fits_no_rule_is_left_unsaid(name: str) -> None:
    assert said(drawn(*SILENT[name])) == []


def test_no_objects_no_relations() -> None:
    empty = Scene(np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 4)), np.zeros((0, 4, 4), np.bool_))
    assert relations(empty) == ()


def test_standing_beside_a_bicycle_is_not_riding() -> None:
    scene = drawn(thing("bicycle", (90, 80, 160, 140)), thing("person", (70, 20, 95, 142)))
    assert "person riding bicycle" not in said(scene)


def test_standing_before_a_chair_is_not_sitting() -> None:
    scene = drawn(thing("chair", (100, 80, 130, 120)), thing("person", (102, 10, 128, 135)))
    assert said(scene) == ["person in front of chair"]


def test_a_bowl_before_a_standing_man_is_not_in_his_hand() -> None:
    scene = drawn(MAN, thing("bowl", (100, 118, 125, 130)))
    assert "person holding bowl" not in said(scene)


def test_a_cup_has_one_holder() -> None:
    """It touches both; it is held by one, and says nothing of the other."""
    scene = drawn(
        thing("person", (60, 30, 90, 130)),
        thing("person", (96, 30, 126, 130)),
        thing("cup", (88, 70, 98, 82)),
    )
    assert said(scene).count("person holding cup") == 1


def test_a_man_sits_on_one_chair() -> None:
    other = thing("chair", (86, 62, 92, 127), (86, 92, 126, 102))
    scene = drawn(other, CHAIR, SITTER)
    assert said(scene).count("person sitting on chair") == 1


def test_one_thing_seen_twice_is_not_related_to_itself() -> None:
    once = drawn(thing("bus", (20, 20, 220, 120)))
    twice = Scene(
        labels=np.array([COCO_80.index("bus"), COCO_80.index("truck")], np.int64),
        scores=np.array([0.9, 0.8]),
        boxes=np.repeat(once.boxes, 2, axis=0),
        masks=np.repeat(once.masks, 2, axis=0),
    )
    assert relations(twice) == ()


def test_a_picture_that_cuts_both_off_leaves_depth_open() -> None:
    """Both end at the lower edge: who stands nearer cannot be told from where they stand."""
    scene = drawn(thing("person", (60, 30, 110, 160)), thing("person", (106, 20, 150, 160)))
    assert said(scene) == ["person beside person"]


def test_unsure_objects_make_unsure_relations() -> None:
    scene = drawn(BUS, thing("person", (100, 40, 130, 140)))
    sure = relations(scene)[0].score
    unsure = relations(Scene(scene.labels, scene.scores * 0.5, scene.boxes, scene.masks))[0].score
    assert unsure == pytest.approx(sure * 0.5)
    assert relations(scene, threshold=sure) != ()
    assert relations(scene, threshold=sure + 1e-6) == ()


def test_every_rule_keeps_to_the_vocabularies() -> None:
    for rule in RULES:
        assert rule.predicate in PREDICATES
        assert rule.subjects <= set(COCO_80)
        assert rule.objects <= set(COCO_80)
        assert rule.subjects
        assert rule.objects
        assert 0.5 <= rule.confidence <= 1
    assert 0 < LEAST_STRENGTH < 1
    assert len(PREDICATES) == len(set(PREDICATES)) == 56

"""The words of generated scenes are those that the experts say."""

from __future__ import annotations

from gateway.verbalizer import display_name
from llm_server.training.plausible import GEOMETRIC, PERSON_ACTIONS, PREDICATES
from llm_server.training.vocabulary import CATEGORIES, STUFF, SYNONYMS, THINGS
from serving.coco import COCO_80, COCO_PANOPTIC
from serving.psg import PSG_PREDICATES


def test_things_are_coco_s_and_stuff_is_panoptic_stuff_as_it_is_spoken() -> None:
    assert THINGS == COCO_80
    spoken = {display_name(name) for name in COCO_PANOPTIC[len(COCO_80) :]}
    assert set(STUFF) < spoken
    assert len(set(STUFF)) == len(STUFF)


def test_whatever_is_said_of_classes_is_said_of_classes_that_there_are() -> None:
    assert {name for names in CATEGORIES.values() for name in names} <= set(THINGS)
    assert set(SYNONYMS) <= set(THINGS)


def test_predicates_are_the_scene_graph_s() -> None:
    assert PREDICATES == PSG_PREDICATES
    assert {*GEOMETRIC, *PERSON_ACTIONS} <= set(PREDICATES)

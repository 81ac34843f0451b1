"""Puts generated scenes into words with the gateway's own verbalizer: what training and evaluation are handed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.verbalizer import SeenObject, SeenRelation, SeenText, verbalize_polysight

if TYPE_CHECKING:
    from llm_server.training.scenes import Scene


def scene_words(scene: Scene) -> str:
    """The sentences that the gateway would say about this scene."""
    return verbalize_polysight(
        [SeenObject(seen.name, seen.box, seen.area) for seen in scene.objects],
        [SeenRelation(relation.subject, relation.predicate, relation.object) for relation in scene.relations],
        [SeenText(line) for line in scene.lines],
    ).text

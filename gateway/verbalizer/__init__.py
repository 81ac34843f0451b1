"""Puts what the experts saw into exact sentences, with provenance: which observation produced which phrase.

Three forms: `collavo` (the crayon sentence), `moai` (four auxiliary sentences), `polysight` (what the embedded model
reads). Pure functions over frozen dataclasses: no protos, no grpc, no torch.
"""

from __future__ import annotations

from gateway.verbalizer.collavo import CrayonObject, crayon_question, verbalize_collavo
from gateway.verbalizer.coordinates import box_text, coordinate_text
from gateway.verbalizer.moai import (
    Detection,
    Region,
    RelatedObject,
    Relation,
    TextLine,
    join_moai,
    strongest_relations,
    verbalize_detections,
    verbalize_regions,
    verbalize_relations,
    verbalize_text,
)
from gateway.verbalizer.names import display_name
from gateway.verbalizer.phrase import Box, Phrase, Verbalization
from gateway.verbalizer.polysight import SeenObject, SeenRelation, SeenText, spoken_name, verbalize_polysight
from serving.coco import COCO_PANOPTIC, UNLABELLED
from serving.psg import PSG_PREDICATES

__all__ = [
    "COCO_PANOPTIC",
    "PSG_PREDICATES",
    "UNLABELLED",
    "Box",
    "CrayonObject",
    "Detection",
    "Phrase",
    "Region",
    "RelatedObject",
    "Relation",
    "SeenObject",
    "SeenRelation",
    "SeenText",
    "TextLine",
    "Verbalization",
    "box_text",
    "coordinate_text",
    "crayon_question",
    "display_name",
    "join_moai",
    "spoken_name",
    "strongest_relations",
    "verbalize_collavo",
    "verbalize_detections",
    "verbalize_polysight",
    "verbalize_regions",
    "verbalize_relations",
    "verbalize_text",
]

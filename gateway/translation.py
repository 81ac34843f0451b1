"""From what the experts sent to what the verbalizers take, and back to the contract with provenance.

What feeds which sentence:

- `polysight`: the object sentence speaks of the panoptic things; of the detections (score at least 0.5) if the
  panoptic expert is missing; of the objects that relations name if both are. Relations are told over the numbers
  of that sentence: each object of the scene graph is matched to it by name and overlap (`gateway.objects`), and a
  relation with an object that is not there is left out. Text as the OCR expert gave it.
- `collavo`: the segments that own a cell of the crayon grid, stuff included. No grid, no objects.
- `moai`: all named segments, detections, the strongest relations over the scene graph's own objects, and text, with
  that system's thresholds.

The nameless rest of the panoptic partition is never spoken of. Every word that comes from outside (text in the
picture, names from an open vocabulary) is neutralised before it enters a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gateway import crayon
from gateway.objects import match
from gateway.prompt import neutralise_line
from gateway.verbalizer import (
    Box,
    SeenObject,
    SeenRelation,
    SeenText,
    Verbalization,
    spoken_name,
    verbalize_polysight,
)
from gateway.verbalizer.collavo import CrayonObject, verbalize_collavo
from gateway.verbalizer.moai import (
    MIN_DETECTION_SCORE,
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
from polysight.common.v1 import geometry_pb2
from polysight.gateway.v1 import polysight_pb2
from polysight.llm.v1 import generation_pb2
from polysight.vision.v1 import detection_pb2, ocr_pb2, panoptic_pb2, scene_graph_pb2
from serving.coco import UNLABELLED


@dataclass(frozen=True)
class Origin:
    """Where the entries of one sequence given to a verbalizer come from.

    Attributes:
        expert: who saw them.
        indices: for each entry, the indices in that expert's results which it was made from.
    """

    expert: polysight_pb2.Expert
    indices: Sequence[Sequence[int]]


# Names come from vocabularies, and again with every picture; to clean one takes some 30 microseconds.
_name = lru_cache(maxsize=4096)(neutralise_line)

Origins = Mapping[str, Origin]
"""By the name that the verbalizer's phrases carry: an expert's, or RELATION_OBJECT."""

MAX_SEGMENT = 133
"""The largest segment id that a model which looks at segments has a colour for (`SegmentGrid.segment_ids`)."""

MAX_SENTENCE_BYTES = 65536
"""The longest single sentence that the contract allows (`AuxiliarySentences`)."""

RELATION_OBJECT = "relation_object"
"""Objects that are only known from the scene graph's relations; their indices are those of the relations."""


@dataclass(frozen=True)
class Seen:
    """The results that arrived; None for an expert that is missing."""

    panoptic: panoptic_pb2.SegmentResponse | None = None
    detection: detection_pb2.DetectResponse | None = None
    scene_graph: scene_graph_pb2.GenerateSceneGraphResponse | None = None
    ocr: ocr_pb2.RecognizeTextResponse | None = None


def seen_in(reports: Iterable[polysight_pb2.ExpertReport]) -> Seen:
    """The results of all reports that have one."""
    found = {field: getattr(report, field) for report in reports if (field := report.WhichOneof("result"))}
    return Seen(**found)


def verbalize(
    seen: Seen, form: generation_pb2.VerbalizationForm, grid_size: tuple[int, int]
) -> polysight_pb2.Verbalization:
    """Put `seen` into the words of `form`; `grid_size` is the crayon grid that the `collavo` form is read from."""
    verbalization, origins = _FORMS[form](seen, grid_size)
    said = polysight_pb2.Verbalization(text=verbalization.text, form=form)
    for phrase in verbalization.phrases:
        origin = origins[phrase.expert]
        indices = sorted({index for source in phrase.sources for index in origin.indices[source]})
        written = said.phrases.add(start=phrase.start, end=phrase.end, expert=origin.expert, indices=indices)
        if phrase.box is not None:
            box = written.box
            box.x_min, box.y_min, box.x_max, box.y_max = phrase.box
            box.SetInParent()
    return said


def auxiliary_sentences(seen: Seen) -> generation_pb2.AuxiliarySentences | None:
    """The four sentences of the `moai` form one by one: what `verbalize` joins, an empty one for a missing expert.

    None if one of them is longer than the contract lets a single sentence be; joined, they may still be said.
    """
    regions, detections, relations, text = (one.text for one in _moai_sentences(seen)[0])
    if any(len(one.encode()) > MAX_SENTENCE_BYTES for one in (regions, detections, relations, text)):
        return None
    return generation_pb2.AuxiliarySentences(
        regions=regions, detections=detections, relations=relations, text=text
    )


def crayon_maps(
    seen: Seen, grid_size: tuple[int, int], form: generation_pb2.VerbalizationForm
) -> generation_pb2.CrayonMaps | None:
    """The crayon prompt of `grid_size` (rows, columns); None if the panoptic expert gave no such grid.

    With the `polysight` form a cell has the number that its object has in that form's sentence; with the others, which
    number by segment id or not at all, the published one.
    """
    grid = _grid(seen, grid_size)
    if grid is None or seen.panoptic is None:
        return None
    segments = [crayon.GridSegment(segment.id, segment.label_id) for segment in seen.panoptic.segments]
    numbers = None
    if form == generation_pb2.VERBALIZATION_FORM_POLYSIGHT:
        named = [one for _, one in _named(seen.panoptic)]
        stuff, things = (
            [crayon.NamedSegment(o.id, spoken_name(o.label), o.area) for o in named if o.is_thing == is_thing]
            for is_thing in (False, True)
        )
        # The sentence speaks of things alone, so stuff of the same name must not count among them.
        numbers = crayon.numbers_by_size(stuff) | crayon.numbers_by_size(things)
    maps = crayon.crayon_maps(grid, segments, numbers)
    return generation_pb2.CrayonMaps(
        height=grid_size[0],
        width=grid_size[1],
        class_indices=maps.classes.tobytes(),
        instance_ordinals=maps.ordinals.tobytes(),
    )


def segment_grid(seen: Seen, grid_size: tuple[int, int]) -> generation_pb2.SegmentGrid | None:
    """The segment ids of `grid_size` (rows, columns); None if the panoptic expert gave no such grid.

    The two contracts encode a grid alike (uint16, little-endian, row by row, 0 for nothing). Segments beyond the last
    one that has a colour become nothing: a model would refuse the whole map for their sake.
    """
    grid = _grid(seen, grid_size)
    if grid is None:
        return None
    coloured = np.where(grid <= MAX_SEGMENT, grid, 0).astype("<u2")
    return generation_pb2.SegmentGrid(height=grid_size[0], width=grid_size[1], segment_ids=coloured.tobytes())


def _polysight(seen: Seen, _: tuple[int, int]) -> tuple[Verbalization, Origins]:
    objects, origins = _objects(seen)
    relations: list[SeenRelation] = []
    told: list[int] = []
    if seen.scene_graph is not None:
        graph = seen.scene_graph
        valid = _relations(graph)
        if objects:
            nodes = [(node.label, _box(node.box)) for node in graph.objects]
            places = dict(enumerate(match(nodes, [(found.label, found.box) for found in objects])))
        else:
            places, objects, origins = _objects_of(graph, valid)
        for index, relation in valid:
            subject, target = places[relation.subject_index], places[relation.object_index]
            if subject is not None and target is not None:
                relations.append(SeenRelation(subject, relation.predicate, target))
                told.append(index)
    lines = seen.ocr.lines if seen.ocr is not None else ()
    texts = [SeenText(line.text, _box(line.box)) for line in lines]
    # This verbalizer makes names and lines harmless itself; the published forms take them letter for letter.
    return verbalize_polysight(objects, relations, texts), {
        **origins,
        "scene_graph": _each(polysight_pb2.EXPERT_SCENE_GRAPH, told),
        "ocr": _each(polysight_pb2.EXPERT_OCR, range(len(texts))),
    }


def _collavo(seen: Seen, grid_size: tuple[int, int]) -> tuple[Verbalization, Origins]:
    grid = _grid(seen, grid_size)
    objects: list[CrayonObject] = []
    places: list[int] = []
    if grid is not None and seen.panoptic is not None:
        rows, columns = grid_size
        cells = crayon.segment_boxes(grid)
        # By ascending id, as the published system lists them: the ordinals of the index maps count the same way.
        for index, segment in sorted(_named(seen.panoptic), key=lambda entry: entry[1].id):
            if segment.id in cells:
                x0, y0, x1, y1 = cells[segment.id]
                box = (x0 / columns, y0 / rows, x1 / columns, y1 / rows)
                objects.append(CrayonObject(_name(segment.label), box))
                places.append(index)
    return verbalize_collavo(objects), {"panoptic": _each(polysight_pb2.EXPERT_PANOPTIC, places)}


def _moai(seen: Seen, _: tuple[int, int]) -> tuple[Verbalization, Origins]:
    sentences, origins = _moai_sentences(seen)
    return join_moai(*sentences), origins


MoaiSentences = tuple[Verbalization, Verbalization, Verbalization, Verbalization]
"""Of regions, detections, relations and text; empty where there is nothing to say."""


def _moai_sentences(seen: Seen) -> tuple[MoaiSentences, Origins]:
    named = _named(seen.panoptic) if seen.panoptic is not None else []
    regions = [Region(_name(segment.label), _box(segment.box)) for _, segment in named]
    found = seen.detection.detections if seen.detection is not None else ()
    detections = [Detection(_name(one.label), _box(one.box), one.score) for one in found]
    nodes: list[RelatedObject] = []
    strongest: list[Relation] = []
    told: list[int] = []
    if seen.scene_graph is not None:
        nodes = [RelatedObject(_name(n.label), _box(n.box)) for n in seen.scene_graph.objects]
        relations = [
            (i, Relation(r.subject_index, _name(r.predicate), r.object_index, r.score))
            for i, r in _relations(seen.scene_graph)
        ]
        strongest = strongest_relations([relation for _, relation in relations], objects=len(nodes))
        index_of = {id(relation): index for index, relation in relations}
        told = [index_of[id(relation)] for relation in strongest]
    lines = _lines(seen)
    sentences = (
        verbalize_regions(regions),
        verbalize_detections(detections),
        verbalize_relations(nodes, strongest),
        verbalize_text([line for _, line in lines]),
    )
    return sentences, {
        "panoptic": _each(polysight_pb2.EXPERT_PANOPTIC, [index for index, _ in named]),
        "detection": _each(polysight_pb2.EXPERT_DETECTION, range(len(detections))),
        "scene_graph": _each(polysight_pb2.EXPERT_SCENE_GRAPH, told),
        "ocr": _each(polysight_pb2.EXPERT_OCR, [index for index, _ in lines]),
    }


_FORMS: Mapping[int, Callable[[Seen, tuple[int, int]], tuple[Verbalization, Origins]]] = {
    generation_pb2.VERBALIZATION_FORM_POLYSIGHT: _polysight,
    generation_pb2.VERBALIZATION_FORM_COLLAVO: _collavo,
    generation_pb2.VERBALIZATION_FORM_MOAI: _moai,
}


def _objects(seen: Seen) -> tuple[list[SeenObject], dict[str, Origin]]:
    """What the object sentence of the `polysight` form speaks of, as far as panoptic or detection expert know."""
    if seen.panoptic is not None:
        things = [(index, segment) for index, segment in _named(seen.panoptic) if segment.is_thing]
        objects = [SeenObject(thing.label, _box(thing.box), thing.area) for _, thing in things]
        return objects, {"panoptic": _each(polysight_pb2.EXPERT_PANOPTIC, [index for index, _ in things])}
    if seen.detection is not None:
        sure = [
            (i, one) for i, one in enumerate(seen.detection.detections) if one.score >= MIN_DETECTION_SCORE
        ]
        objects = [SeenObject(one.label, _box(one.box), expert="detection") for _, one in sure]
        return objects, {"detection": _each(polysight_pb2.EXPERT_DETECTION, [index for index, _ in sure])}
    return [], {}


IndexedRelation = tuple[int, scene_graph_pb2.Relation]


def _objects_of(
    graph: scene_graph_pb2.GenerateSceneGraphResponse, relations: Sequence[IndexedRelation]
) -> tuple[dict[int, int | None], list[SeenObject], dict[str, Origin]]:
    """The objects that relations name, for a sentence of their own; first, where each went in that sentence."""
    named = sorted({i for _, relation in relations for i in (relation.subject_index, relation.object_index)})
    objects = [
        SeenObject(graph.objects[i].label, _box(graph.objects[i].box), expert=RELATION_OBJECT) for i in named
    ]
    indices = [
        [index for index, relation in relations if i in (relation.subject_index, relation.object_index)]
        for i in named
    ]
    places: dict[int, int | None] = {i: place for place, i in enumerate(named)}
    return places, objects, {RELATION_OBJECT: Origin(polysight_pb2.EXPERT_SCENE_GRAPH, indices)}


def _relations(graph: scene_graph_pb2.GenerateSceneGraphResponse) -> list[IndexedRelation]:
    """Relations between two objects that are there, with their indices."""
    count = len(graph.objects)
    return [
        (index, relation)
        for index, relation in enumerate(graph.relations)
        if relation.subject_index < count
        and relation.object_index < count
        and relation.subject_index != relation.object_index
    ]


def _named(panoptic: panoptic_pb2.SegmentResponse) -> list[tuple[int, panoptic_pb2.Segment]]:
    """Segments with a name, with their indices."""
    return [
        (index, segment)
        for index, segment in enumerate(panoptic.segments)
        if segment.label_id < crayon.CLASSES and segment.label.casefold() != UNLABELLED
    ]


def _lines(seen: Seen) -> list[tuple[int, TextLine]]:
    """Lines of text that say something, harmless, with their indices."""
    lines = seen.ocr.lines if seen.ocr is not None else ()
    harmless = [(i, neutralise_line(line.text), line) for i, line in enumerate(lines)]
    return [(i, TextLine(text, line.confidence, _box(line.box))) for i, text, line in harmless if text]


def _grid(seen: Seen, size: tuple[int, int]) -> NDArray[np.uint16] | None:
    """The panoptic index grid of `size` (rows, columns), or None if there is none that is whole."""
    for grid in seen.panoptic.grids if seen.panoptic is not None else ():
        if (grid.height, grid.width) == size and len(grid.segment_ids) == 2 * size[0] * size[1]:
            return np.frombuffer(grid.segment_ids, "<u2").reshape(size)
    return None


def _each(expert: polysight_pb2.Expert, indices: Iterable[int]) -> Origin:
    return Origin(expert, [[index] for index in indices])


def _box(box: geometry_pb2.Box) -> Box:
    return (box.x_min, box.y_min, box.x_max, box.y_max)

"""What the contenders are asked: about the map alone, or all kinds of questions about words and map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llm_server.evaluation.crayon_reading import CrayonReader
from llm_server.evaluation.packed_generation import Seen, answer_scenes
from llm_server.evaluation.scene_questions import FAMILIES, draw, heldout, kinds
from llm_server.evaluation.scene_scores import Scores
from llm_server.evaluation.scene_sight import MapSight
from llm_server.evaluation.scenes import evaluate
from llm_server.training.question import TASKS, Question
from llm_server.training.scene_maps import LabelIds, Maps, as_painted, maps, painted
from llm_server.training.scenes import Verbalize, scene_stream

#: Kinds asked about the map alone; counts are at most 5.
MAP_KINDS: Final = ("existence", "position", "count")
_BATCH: Final = 12


@dataclass(frozen=True)
class MapItem:
    """A scene as its map shows it, and questions that the map answers."""

    maps: Maps
    questions: tuple[Question, ...]


def map_items(seed: int, n: int, *, rows: int, columns: int, labels: LabelIds) -> list[MapItem]:
    """``n`` held-out scenes on a grid, a question of each of :data:`MAP_KINDS` where the scene offers one.

    What is right is read off the grid: an object that others cover altogether is not there.
    """
    found: list[MapItem] = []
    by_kind = kinds(FAMILIES["dual"])
    for rng, scene in scene_stream("heldout", seed):
        if len(found) == n:
            break
        shown, grid = as_painted(scene, painted(scene, rows, columns))
        questions = tuple(q for kind in MAP_KINDS if (q := draw(rng, shown, by_kind[kind])) is not None)
        found.append(MapItem(maps(rng, shown, grid, labels), questions))
    return found


def score_maps(
    model: Any, tokenizer: Any, items: Sequence[MapItem], reader: CrayonReader | None
) -> dict[str, float]:
    """Share of right answers by kind about the map alone, without words; ``reader`` None: without map either."""
    answers = answer_scenes(
        model,
        tokenizer,
        [("", [q.text for q in item.questions]) for item in items],
        max_new_tokens=40,
        batch=_BATCH,
        seen=None if reader is None else Seen(reader, [item.maps for item in items]),
    )
    scores = Scores()
    for item, said in zip(items, answers, strict=True):
        scores.add_all(item.questions, "", said)
    return {kind: scores.share(kind) for kind in MAP_KINDS}


def score_tasks(
    model: Any,
    tokenizer: Any,
    *,
    seed: int,
    n: int,
    verbalize: Verbalize,
    sight: MapSight | None,
    advance: Callable[[int], None] = lambda scenes: None,
) -> dict[str, float]:
    """Mean over the kinds of each task of the share of right answers, with words and map.

    The mean of kinds, so that the main ones, which are asked more often, do not count for more.
    """
    items = heldout(seed, n, recipe="dual")
    scores = evaluate(model, tokenizer, items, verbalize, batch=_BATCH, sight=sight, advance=advance)
    return {task: scores.of_task(task) for task in TASKS}

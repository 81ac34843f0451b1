"""What the dual run asks: the families of the scenes recipe, the published probes, instructions and freer wordings.

One rule holds for all: what cannot be told is declined in the same words (`probe_questions.DECLINED`), so the recipe's
own wording of that is exchanged, and its class-to-box and box-to-class families make way for those that decline.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Final

from llm_server.training import instructed_questions, mixture, probe_questions
from llm_server.training.question import Family, Question, Task
from llm_server.training.relation_questions import UNKNOWN
from llm_server.training.scenes import Scene

_REPLACED: Final = frozenset({"class_boxes", "box_class", "one_box"})
#: The recipe's own existence and count families are as broad as before; these are asked beside them.
_ADDED: Final[dict[Task, tuple[Family, ...]]] = {
    "object": probe_questions.OBJECT_FAMILIES + instructed_questions.OBJECT_FAMILIES,
    "vl": probe_questions.VL_FAMILIES + instructed_questions.VL_FAMILIES,
}


def _declining(family: Family) -> Family:
    """The family, declining in the words of the dual run."""
    draw = family.draw

    def reworded(rng: random.Random, scene: Scene) -> Question | None:
        question = draw(rng, scene)
        if question is None or question.answer != UNKNOWN:
            return question
        return replace(question, answer=probe_questions.DECLINED)

    return replace(family, draw=reworded)


FAMILIES: Final[dict[Task, tuple[Family, ...]]] = {
    task: tuple(_declining(family) for family in mixture.FAMILIES[task] if family.kind not in _REPLACED)
    + _ADDED[task]
    for task in mixture.FAMILIES
}

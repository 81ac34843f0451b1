"""What dual training learns from: generated scenes, annotated pictures, conversations about them; drawn by number.

An example depends on (source, split, seed, stage, task, number) alone, so that a run can be taken up where it was cut.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Final, Protocol

from llm_server.training.coco_pictures import NumberedObject, Picture
from llm_server.training.conversations import Conversation
from llm_server.training.crayon_instructions import crayon_questions
from llm_server.training.dual_families import FAMILIES
from llm_server.training.dual_settings import PRACTISED, DualSettings, StageKind, Views
from llm_server.training.expert_noise import noisy
from llm_server.training.question import Family, Task, draw_questions
from llm_server.training.scene_maps import LabelIds, Maps, as_painted, maps, painted
from llm_server.training.scenes import Split, Verbalize, make_scene

#: Kinds of questions whose answers can be read off the map alone.
FROM_MAP: Final = frozenset(
    {
        "count", "count_category", "category", "list", "list_numbered", "list_boxes", "class_boxes", "box_class",
        "one_box", "extreme", "several", "once", "existence", "existence_category", "position", "bigger",
        "which_of", "absent", "options_object",
    }
)  # fmt: skip
#: Kinds that crayon prompt tuning asks: the three crayon instructions, and what they rest on.
CRAYON_KINDS: Final = frozenset({"list_numbered", "list_boxes", "class_boxes", "count", "existence"})
_TRIES: Final = 50

#: The sentence about numbered objects, in the order and with the numbers given. Injected, as Verbalize is.
ObjectWords = Callable[[Sequence[NumberedObject]], str]


@dataclass(frozen=True)
class Example:
    """What is seen in words (may be empty) and as maps (may be None), and (question, answer) pairs about it.

    ``chained``: the pairs are the turns of one conversation.
    """

    text: str
    maps: Maps | None
    pairs: tuple[tuple[str, str], ...]
    chained: bool = False


class Examples(Protocol):
    """A source of examples."""

    def draw(self, stage: StageKind, task: Task, number: int) -> Example:
        """Example ``number``; the same for the same number, for ever."""
        ...


class SceneExamples:
    """Generated scenes.

    Args:
        settings: grid, views, noise, number of questions, seed.
        split: held-out scenes never meet those trained on.
        verbalize: how a scene is put into words.
        label_ids: classes of the map by name.
    """

    def __init__(
        self, settings: DualSettings, split: Split, verbalize: Verbalize, label_ids: LabelIds
    ) -> None:
        self._settings = settings
        self._split = split
        self._verbalize = verbalize
        self._labels = label_ids

    def draw(self, stage: StageKind, task: Task, number: int) -> Example:
        """See :class:`Examples`."""
        settings = self._settings
        name = f"{self._split}/{settings.seed}/{stage}/{task}/{number}"
        rng, noise_rng = (
            random.Random(f"polysight-dual/{name}"),
            random.Random(f"polysight-dual-noise/{name}"),
        )
        view = "map_only" if stage == "cpt" else _view(rng, settings.views)
        for _ in range(_TRIES):
            scene = make_scene(rng)
            if noise_rng.random() < settings.noisy_share:
                scene = noisy(scene, settings.noise, noise_rng)
            grid = painted(scene, settings.crayon.rows, settings.crayon.columns)
            if view == "map_only":
                scene, grid = as_painted(scene, grid)
            families = _families(stage, task, view, settings.practised)
            asked = draw_questions(rng, scene, families, settings.batch.questions)
            if asked:
                return Example(
                    "" if view == "map_only" else self._verbalize(scene),
                    None if view == "text_only" else maps(rng, scene, grid, self._labels),
                    tuple((q.text, q.answer) for q in asked),
                )
        raise RuntimeError(f"{_TRIES} scenes, and none to ask about")


class PictureExamples:
    """Annotated pictures: crayon questions and answers, and the maps of the annotation. Has the ``object`` task only.

    Words, maps and answers number the objects alike. Raises ValueError if there is no picture.
    """

    def __init__(self, settings: DualSettings, pictures: Iterable[Picture], words: ObjectWords) -> None:
        self._settings = settings
        self._pictures = tuple(pictures)
        self._words = words
        if not self._pictures:
            raise ValueError("there is no annotated picture to train on")

    def draw(self, stage: StageKind, task: Task, number: int) -> Example:
        """See :class:`Examples`; every picture is seen once before any is seen again."""
        settings = self._settings
        rounds, at = divmod(number, len(self._pictures))
        order = list(range(len(self._pictures)))
        random.Random(f"polysight-pictures/{settings.seed}/{stage}/{rounds}").shuffle(order)
        picture = self._pictures[order[at]]
        rng = random.Random(f"polysight-picture/{settings.seed}/{stage}/{number}")
        questions = crayon_questions(picture.objects)
        rng.shuffle(questions)
        view = "map_only" if stage == "cpt" else _view(rng, settings.views)
        return Example(
            "" if view == "map_only" else self._words(picture.objects),
            # The boxes of the answers are in the words; without words the map is their only source.
            None if view == "text_only" else picture.maps,
            tuple((q.text, q.answer) for q in questions[: settings.batch.questions]),
        )


class ConversationExamples:
    """Conversations about pictures that are annotated: words and maps come from the annotation. The ``vl`` task.

    Args:
        settings: views and seed.
        conversations: as read.
        pictures: what is seen in them, by file name without folders.
        words: how the objects are put into words.
        skipped: counts conversations about pictures that are not annotated.

    Raises ValueError if no conversation is left.
    """

    def __init__(
        self,
        settings: DualSettings,
        conversations: Iterable[Conversation],
        pictures: Mapping[str, Picture],
        words: ObjectWords,
        *,
        skipped: Counter[str],
    ) -> None:
        self._settings = settings
        self._words = words
        self._found: list[tuple[Conversation, Picture]] = []
        for one in conversations:
            picture = pictures.get(PurePath(one.image).name)
            if picture is None:
                skipped["picture not annotated"] += 1
            else:
                self._found.append((one, picture))
        if not self._found:
            raise ValueError("there is no conversation about an annotated picture to train on")

    def draw(self, stage: StageKind, task: Task, number: int) -> Example:
        """See :class:`Examples`."""
        rounds, at = divmod(number, len(self._found))
        order = list(range(len(self._found)))
        random.Random(f"polysight-conversations/{self._settings.seed}/{stage}/{rounds}").shuffle(order)
        said, picture = self._found[order[at]]
        return Example(self._words(picture.objects), picture.maps, said.turns, chained=True)


class MixedExamples:
    """Several sources of one task, each drawn from with its weight. Raises ValueError without a source for a task."""

    def __init__(self, seed: int, sources: Mapping[Task, Sequence[tuple[float, Examples]]]) -> None:
        self._seed = seed
        self._sources = sources
        if any(not sources.get(task) for task in FAMILIES):
            raise ValueError("every task needs a source of examples")

    def draw(self, stage: StageKind, task: Task, number: int) -> Example:
        """See :class:`Examples`."""
        rng = random.Random(f"polysight-mixed/{self._seed}/{stage}/{task}/{number}")
        weights = [weight for weight, _ in self._sources[task]]
        source = rng.choices([source for _, source in self._sources[task]], weights=weights)[0]
        return source.draw(stage, task, number)


def _view(rng: random.Random, views: Views) -> str:
    names = ("both", "map_only", "text_only")
    return rng.choices(names, weights=[getattr(views, name) for name in names])[0]


def _families(stage: StageKind, task: Task, view: str, practised: tuple[str, ...]) -> tuple[Family, ...]:
    if stage == "cpt":
        return tuple(f for row in FAMILIES.values() for f in row if f.kind in CRAYON_KINDS)
    return tuple(
        replace(f, weight=f.weight * PRACTISED) if f.kind in practised else f
        for f in FAMILIES[task]
        if view != "map_only" or f.kind in FROM_MAP
    )

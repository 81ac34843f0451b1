"""What MoAI's training reads: a picture, its panoptic segments, what four experts say of it, a question, an answer.

Generated scenes have no photo. Here a scene is painted flat, each class in a colour of its own: enough to show that the
image side learns, and no picture of the world.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from llm_server.models.aux_tokens import Source
from llm_server.prompts.colour_map import palette
from llm_server.training.expert_noise import USUAL, ExpertNoise, noisy
from llm_server.training.mixture import FAMILIES
from llm_server.training.question import TASKS, draw_questions
from llm_server.training.scene_maps import painted
from llm_server.training.scenes import Scene, Split, make_scene
from llm_server.training.vocabulary import STUFF, THINGS

_TRIES: Final = 50
_COLOURS: Final = {name: number for number, name in enumerate((*THINGS, *STUFF), start=1)}

#: The four sentences about a scene, in the published wording. Injected: this room does not know the gateway.
ExpertWords = Callable[[Scene], Mapping[Source, str]]


@dataclass(frozen=True)
class MoaiExample:
    """``picture`` (H, W, 3) uint8 RGB; ``segments`` (S, S) segment ids of the model's own picture size, 0 for none;
    ``sentences`` by expert, one that says nothing left out; one question and its answer."""

    picture: NDArray[np.uint8]
    segments: NDArray[np.integer]
    sentences: Mapping[Source, str]
    question: str
    answer: str


class MoaiExamples(Protocol):
    """A source of examples."""

    def draw(self, number: int) -> MoaiExample:
        """Example ``number``; the same for the same number, for ever."""
        ...


class SceneMoaiExamples:
    """Generated scenes, a share of them as experts with faults would report them.

    Args:
        split: held-out scenes never meet those trained on.
        seed: of scenes and questions.
        side: pixels of a side of the model's pictures.
        words: how the experts' results are put into words.
        noise: what experts get wrong.
        noisy_share: of the scenes, those with noise; answers are about what is reported.
    """

    def __init__(
        self,
        split: Split,
        seed: int,
        side: int,
        words: ExpertWords,
        *,
        noise: ExpertNoise = USUAL,
        noisy_share: float = 0.5,
    ) -> None:
        self._name = f"{split}/{seed}"
        self._side = side
        self._words = words
        self._noise = noise
        self._noisy_share = noisy_share

    def draw(self, number: int) -> MoaiExample:
        """See :class:`MoaiExamples`."""
        rng = random.Random(f"polysight-moai-scene/{self._name}/{number}")
        task = rng.choice(TASKS)
        for _ in range(_TRIES):
            scene = make_scene(rng)
            if rng.random() < self._noisy_share:
                scene = noisy(scene, self._noise, rng)
            asked = draw_questions(rng, scene, FAMILIES[task], 1)
            if asked:
                segments = painted(scene, self._side, self._side).astype(np.int64) + 1
                return MoaiExample(
                    _painting(scene, segments), segments, self._words(scene), asked[0].text, asked[0].answer
                )
        raise RuntimeError(f"{_TRIES} scenes, and none to ask about")


def _painting(scene: Scene, segments: NDArray[np.integer]) -> NDArray[np.uint8]:
    """(S, S, 3) uint8: each segment in the colour of its class, black between them."""
    colours = np.zeros((len(scene.objects) + 1, 3), np.uint8)
    for index, seen in enumerate(scene.objects, start=1):
        colours[index] = palette()[_COLOURS[seen.name]]
    painting: NDArray[np.uint8] = colours[segments]
    return painting

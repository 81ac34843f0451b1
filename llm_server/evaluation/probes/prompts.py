"""How the probes are asked.

`published` are the sentences of the CoLLaVO paper, letter for letter (arXiv 2402.11248: Figure 2 for C2B and B2C,
Figure 4 for class to boxes; counting was not probed there). `short` are the sentences that the shipped adapters were
trained on. Two decimals, as the verbalizer writes boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from llm_server.evaluation.probes.boxes import Box
from llm_server.training.vocabulary import article, plural

FormName = Literal["published", "short"]


@dataclass(frozen=True)
class Form:
    """Templates: `{name}` is the category, `{many}` its plural, `{x0}` ... `{y1}` the corners."""

    existence: str
    count: str
    class_to_box: str
    box_to_class: str

    def ask_existence(self, name: str) -> str:
        """C2B: is there one of this category."""
        return self.existence.format(name=name)

    def ask_count(self, name: str) -> str:
        """How many of this category."""
        return self.count.format(many=plural(name))

    def ask_boxes(self, name: str) -> str:
        """The boxes of this category."""
        return self.class_to_box.format(name=name)

    def ask_class(self, box: Box) -> str:
        """B2C: what is in this box."""
        x0, y0, x1, y1 = (f"{value:.2f}" for value in box)
        return self.box_to_class.format(x0=x0, y0=y0, x1=x1, y1=y1)


FORMS: Final[dict[FormName, Form]] = {
    "published": Form(
        existence='Is there an instance of the category "{name}" in the image? There may be multiple instances which '
        "are grouped together. Answer the question using either yes or no.",
        count="How many {many} are there in the image?",
        class_to_box="Provide multiple bounding box coordinates for {name} in the image.",
        box_to_class="Let's say the upper left corner of the image is [0.0, 0.0], the bottom right corner of the "
        "image is [1.0, 1.0]. What is the main object whose upper left corner is [{x0}, {y0}] and whose bottom right "
        "corner is [{x1}, {y1}] in the image? Answer the question using a single word or phrase.",
    ),
    "short": Form(
        existence='Is there an instance of the category "{name}" in the image? Answer the question using either yes '
        "or no.",
        count="How many {many} are there in the image?",
        class_to_box="Provide multiple bounding box coordinates for {name} in the image.",
        box_to_class="Given that [0.0, 0.0] is the upper-left corner and [1.0, 1.0] the bottom-right corner of the "
        "image, what is the main object in the box [{x0}, {y0}, {x1}, {y1}]? Answer with a single word or phrase.",
    ),
}


def ask_pope(name: str) -> str:
    """POPE's question (arXiv 2305.10355, section 5) with the ending both published systems add to it."""
    return f"Is there {article(name)} in the image?\nAnswer the question using a single word or phrase."

"""Pictures, questions and marks of the task `polysight_words`, in the forms that lmms-eval calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_SIZE = (640, 360)
_LETTERS = 110


def doc_to_visual(doc: Mapping[str, Any]) -> list[Image.Image]:
    """One picture of 640 x 360 with the word of ``doc`` in its middle, dark on light."""
    picture = Image.new("RGB", _SIZE, (236, 232, 220))
    middle = (_SIZE[0] / 2, _SIZE[1] / 2)
    font = ImageFont.load_default(_LETTERS)
    ImageDraw.Draw(picture).text(middle, doc["word"], fill=(20, 30, 60), font=font, anchor="mm")
    return [picture]


def doc_to_text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """The question as it stands."""
    return str(doc["question"])


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1 if the answer has the word, in capitals or not."""
    return {"contains_word": float(doc["word"].casefold() in results[0].casefold())}

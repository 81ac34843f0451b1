"""What an exported OWLv2 is on disk: a folder with both graphs, the tokenizer and a sheet that says what they are.

image.onnx       pixel_values (batch, 3, S, S) -> class_embeds, logit_shift, logit_scale, boxes, objectness
text.onnx        input_ids (batch, T) -> query_embeds
tokenizer.json   CLIP's byte-pair encoding, as the `tokenizers` library reads it
owlv2.json       source, licence, pixels, tokens, SHA-256 of the other three
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from serving.weights import WeightsUnavailableError

IMAGE, TEXT, TOKENIZER, SHEET = "image.onnx", "text.onnx", "tokenizer.json", "owlv2.json"

PIXELS, TOKENS = "pixel_values", "input_ids"
CLASS_EMBEDS, LOGIT_SHIFT, LOGIT_SCALE = "class_embeds", "logit_shift", "logit_scale"
BOXES, OBJECTNESS, QUERY_EMBEDS = "boxes", "objectness", "query_embeds"
IMAGE_OUTPUTS = (CLASS_EMBEDS, LOGIT_SHIFT, LOGIT_SCALE, BOXES, OBJECTNESS)


class Sheet(BaseModel):
    """`owlv2.json`. `source`: what was exported. `input_size`: side of the square in pixels. `max_tokens`: of a phrase,
    beginning and end included. `sha256`: by file name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    input_size: int
    max_tokens: int
    begin_id: int
    end_id: int
    sha256: dict[str, str]


class Bundle:
    """The folder at `path`, read and checked: all files there, each with the digest the sheet gives.

    Raises WeightsUnavailableError for whatever is missing, torn or does not belong together.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.sheet = Sheet.model_validate_json((path / SHEET).read_bytes())
        except (OSError, ValidationError) as error:
            raise WeightsUnavailableError(
                "owlv2",
                f"{path} is no folder that `python -m services.detection.export owlv2` wrote: {error}",
            ) from error
        for name in (IMAGE, TEXT, TOKENIZER):
            file = path / name
            if not file.is_file() or digest(file) != self.sheet.sha256.get(name):
                raise WeightsUnavailableError(
                    "owlv2", f"{file} is missing or not what {SHEET} says; export again"
                )
        self.image, self.text, self.tokenizer = path / IMAGE, path / TEXT, path / TOKENIZER
        self.name = path.name

    @property
    def words_digest(self) -> str:
        """Of everything that decides what a phrase's embedding is: text graph, tokenizer, number of tokens."""
        parts = (self.sheet.sha256[TEXT], self.sheet.sha256[TOKENIZER], str(self.sheet.max_tokens))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @property
    def digest(self) -> str:
        """Of all files."""
        return hashlib.sha256("\0".join(sorted(self.sheet.sha256.values())).encode()).hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

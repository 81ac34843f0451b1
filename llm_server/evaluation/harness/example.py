"""What is asked, and what is kept of each answer. Pure: no grpc, no torch."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol


class Picture(Protocol):
    """A picture that can be sent: bytes of an image file, read when it is needed."""

    @property
    def name(self) -> str:
        """Names it in records and clusters the questions asked about it."""

    def read(self) -> bytes:
        """The bytes of the file; OSError where there are none."""


@dataclass(frozen=True)
class PictureFile:
    """A picture on disk."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def read(self) -> bytes:
        """The file's bytes; raises OSError."""
        return self.path.read_bytes()


@dataclass(frozen=True)
class EncodedPicture:
    """A picture that came as base64 text within a table, decoded when it is needed."""

    name: str
    text: str

    def read(self) -> bytes:
        """The decoded bytes; raises ValueError where the text is not base64."""
        return base64.b64decode(self.text, validate=True)


@dataclass(frozen=True)
class Example:
    """One question about one picture.

    Attributes:
        id: its own within a run.
        group: what it is scored under, such as "existence".
        picture: what it is about.
        question: as it is sent.
        expected: the right answer in words, for people and for simple scorers.
        max_new_tokens: where an answer without end is cut; 0 leaves it to the model.
        details: what the scorer needs besides (JSON values).
    """

    id: str
    group: str
    picture: Picture
    question: str
    expected: str
    max_new_tokens: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Condition:
    """Under which settings a question is asked.

    Attributes:
        name: such as "adapters" or "base".
        adapters: None is the model's default, empty none, else names ("object", "vl").
        model: which language model; empty: the default.
        experts: names of the experts to ask; empty: all.
        budget_s: how long the gateway may wait for experts. Generous, so that a busy machine does not change what is
            scored.
    """

    name: str
    adapters: tuple[str, ...] | None = None
    model: str = ""
    experts: tuple[str, ...] = ()
    budget_s: float = 60.0


@dataclass(frozen=True)
class SeenObject:
    """An object that an expert reported: name, normalised xyxy box, score 0..1, and whose it is."""

    name: str
    box: tuple[float, float, float, float]
    score: float
    expert: str


@dataclass
class Record:
    """One answered question, one line of the records file.

    Attributes:
        id, group, question, picture, expected: of the example; `picture` is its name.
        condition: name of the condition it was asked under.
        fingerprint: of everything that was sent (see `fingerprint`).
        verbalization: the gateway's words.
        answer: the model's answer.
        objects: what panoptic, detection and scene graph experts reported.
        served: who answered, by part: {"llm_server": "name version engine", "panoptic": ...}.
        experts: how each expert's call ended: "ok", "failed", "timed_out", "skipped".
        timings: milliseconds: "total", "first_token" (as the client saw them), "perceive", "prefill", "decode" ...
        generated_tokens: of the answer.
        score: 0..1, of the last scoring.
        read: what the scorer understood the answer to say.
    """

    id: str
    group: str
    condition: str
    fingerprint: str
    question: str
    picture: str
    expected: str
    verbalization: str
    answer: str
    objects: list[SeenObject]
    served: dict[str, str]
    experts: dict[str, str]
    timings: dict[str, float]
    generated_tokens: int
    score: float = 0.0
    read: str = ""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """The record of one line.

        Raises:
            ValueError: the line is no JSON, or not a record of this version.
        """
        try:
            told = json.loads(line)
            objects = [SeenObject(**{**seen, "box": tuple(seen["box"])}) for seen in told.pop("objects")]
            return cls(objects=objects, **told)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a record: {error}") from error


def fingerprint(example: Example, condition: Condition, image: bytes) -> str:
    """Sixteen hexadecimal digits that change with anything that is sent: words, picture, settings."""
    sent = {
        "question": example.question,
        "image": hashlib.sha256(image).hexdigest(),
        "max_new_tokens": example.max_new_tokens,
        **asdict(condition),
    }
    return hashlib.sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()[:16]

"""The words a detector looks for where a request brings none: one name a line, in a file.

    # What the list is and where it is from; lines that begin with a hash say it.
    wall
    building

Order and repetitions are kept: a label's id is its line. `BUILT_IN` is the list that MoAI looks for, the 847 classes of
ADE20K-Full and the 1,000 of ImageNet; any list in this form will do (`DETECTION_VOCABULARY_PATH`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

BUILT_IN = Path(__file__).with_name("vocabularies") / "ade847_imagenet1000.txt"
PLACE = "{}"


@dataclass(frozen=True)
class Words:
    """A list of names, and what is put around each before the network reads it (`{}` stands for the name)."""

    name: str
    names: tuple[str, ...]
    template: str = PLACE

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError(f"the vocabulary {self.name} is empty")
        if PLACE not in self.template:
            raise ValueError(f"the template {self.template!r} has no {PLACE} for the name")

    @property
    def phrases(self) -> tuple[str, ...]:
        """What the network reads, in the order of `names`."""
        return tuple(self.template.replace(PLACE, name) for name in self.names)

    @property
    def digest(self) -> str:
        """SHA-256 of names, order and template."""
        return hashlib.sha256("\n".join((self.template, *self.names)).encode()).hexdigest()


def read_words(path: Path) -> tuple[str, ...]:
    """The names in `path`. Raises OSError, or ValueError (UnicodeDecodeError) where it is not UTF-8."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))

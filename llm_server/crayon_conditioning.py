"""The crayon maps of a request to the embedded default, as they wait for their turn."""

from __future__ import annotations

from dataclasses import dataclass

from llm_server.conditioning import Conditioning


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CrayonConditioning(Conditioning):
    """Two maps of the image positions, row by row: ``classes`` and ``numbers``, 0 unknown.

    ``semantic`` and ``numbering`` off leave a map out; never both, as there are no image positions then.
    """

    classes: bytes
    numbers: bytes
    semantic: bool = True
    numbering: bool = True

"""What a prompt is read with besides its token ids: the picture at its image positions, and what goes with it.

The engine knows this much and no more: where the image positions are, what keys and values depend on, and whether the
prompt can be read in parts. The pixels, maps and words are in subclasses, which only the runner of their model opens.
No torch, no grpc.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Conditioning:
    """Of one request; never changed once it is made.

    Attributes:
        digest: of all that the keys and values of the prompt depend on besides its ids and adapters. Two prompts that
            begin with the same ids share what was read only if it is the same.
        image_start: the first image position of the prompt.
        image_tokens: image positions, one after the other; ids there are placeholders.
        auxiliary_tokens: tokens that are looked at and take no position.
        whole: every position of the prompt depends on all others (MoAI's mixers), so that it is read in one pass, and
            what was read for another prompt is of no use.
    """

    digest: bytes
    image_start: int
    image_tokens: int
    auxiliary_tokens: int = 0
    whole: bool = False

    @property
    def image_end(self) -> int:
        """The position after the last image position."""
        return self.image_start + self.image_tokens

    def image_part(self, start: int, end: int) -> tuple[int, int]:
        """Which of the image positions fall into positions ``start`` to ``end``: (first, last + 1), counted from
        ``image_start``; both the same if none does."""
        first = min(max(start - self.image_start, 0), self.image_tokens)
        return first, max(first, min(end - self.image_start, self.image_tokens))

"""Two ways to serve the published models: letter for letter, faults included, or as they should have been.

`reference` is for parity with the published code. `serving` is the default. Neither changes a weight, and the colour
map keeps its odd scale in both, because the weights were trained with it. Pure: no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

ProfileName: TypeAlias = Literal["reference", "serving"]


@dataclass(frozen=True)
class Profile:
    """What differs between the two ways.

    Attributes:
        name: to be told in the response.
        stop_at_turn_end: stop on the end-of-turn token as well as on EOS. Published: EOS alone, so that answers run on
            to the token limit and are trimmed.
        swap_channels: hand RGB pictures to the experts that were trained on BGR in their own order. Published: RGB.
        mask_auxiliary_padding: keep the padding of a batch out of MoAI's compressor.
        gate_dtype: type of the softmax of MoAI's gates. Published: float16 in any run.
        unknown_beyond_table: a 21st instance of a class gets number 0. Published: an IndexError.
    """

    name: ProfileName
    stop_at_turn_end: bool
    swap_channels: bool
    mask_auxiliary_padding: bool
    gate_dtype: Literal["float16", "float32"]
    unknown_beyond_table: bool

    def stop_ids(self, *, eos_id: int, turn_end_id: int) -> frozenset[int]:
        """Token ids that end an answer."""
        return frozenset((eos_id, turn_end_id)) if self.stop_at_turn_end else frozenset((eos_id,))


REFERENCE: Final = Profile(
    name="reference",
    stop_at_turn_end=False,
    swap_channels=False,
    mask_auxiliary_padding=False,
    gate_dtype="float16",
    unknown_beyond_table=False,
)
SERVING: Final = Profile(
    name="serving",
    stop_at_turn_end=True,
    swap_channels=True,
    mask_auxiliary_padding=True,
    gate_dtype="float32",
    unknown_beyond_table=True,
)
PROFILES: Final[dict[ProfileName, Profile]] = {"reference": REFERENCE, "serving": SERVING}

"""Decoding steps in a few fixed shapes, so that each can be recorded once and replayed: CUDA graphs.

A decoding step of a 7 B model is some thousand small kernels, which take longer to launch one by one than to run. A
recording launches them at once, but only ever over the same memory and in the same shapes. So a step is filled up to
the next number of rows and of positions that is recorded: rows that are not there read a block of zeros and write to a
block that nobody reads, and positions that are not there are masked. All that differs between two steps of a shape
stands in one array of page-locked memory, copied to the device in one go; logits come back the same way.

What records is an argument. :mod:`llm_server.cuda_recorder` has CUDA's, which has not run on hardware; the steps
themselves are tested with one that records nothing and computes again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm_server.kv_store import KvStore
from llm_server.runner import DecodeRow
from serving.engine.loss import device_lost

#: Positions are filled up to a multiple of this: the fewer shapes, the more of a step is masked.
POSITIONS: Final = 512

_logger = logging.getLogger(__name__)


class Recorder(Protocol):
    """Records work on a device."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Do ``work``, perhaps several times, and record it: what is returned does the same over the same memory and
        gives the same tensor, which the next call of any recording may overwrite. Raises RuntimeError."""

    def synchronize(self) -> None:
        """Wait until all is done. Raises RuntimeError if something of it failed."""


class Write(Protocol):
    """One decoding step of a model: :meth:`llm_server.models.vision_language.VisionLanguageModel.write`."""

    def __call__(
        self, tokens: Tensor, *, positions: Tensor, visible: Tensor | None, cache: StepCache
    ) -> Tensor:
        """Logits (R, V) float32 of ``tokens`` (R, 1) at ``positions`` (R, 1), which see ``visible`` (R, 1, 1, L)."""


class StepCache:
    """Keys and values of one shape of step; implements :class:`llm_server.models.internlm2.KeyValueCache`."""

    def __init__(self, store: KvStore, slots: Tensor, tables: Tensor, rows: int, length: int) -> None:
        """``slots`` (R,) and ``tables`` (R * blocks,) int64 are read whenever a step runs, not here."""
        self._store, self._slots, self._tables = store, slots, tables
        self._rows, self.length = rows, length

    def update(self, keys: Tensor, values: Tensor, layer: int, /) -> tuple[Tensor, Tensor]:
        """Write keys and values (R, heads, 1, width); returns all positions of the shape, same layout."""
        self._store.write(
            layer, self._slots, torch.cat((keys[:, :, 0].flatten(1), values[:, :, 0].flatten(1)), dim=1)
        )
        return self._store.gather(layer, self._tables, self._rows)


@dataclass(frozen=True, slots=True)
class _Recording:
    host: Tensor
    inputs: Tensor
    outputs: Tensor
    replay: Callable[[], Tensor]


class DecodeGraphs:
    """Recordings of decoding steps for batches of up to ``rows`` rows; made when a shape comes for the first time.

    Belongs to the engine's thread, like the store that it works on.
    """

    def __init__(self, write: Write, store: KvStore, recorder: Recorder, *, rows: int, width: int) -> None:
        """``width`` is that of a row of logits.

        Raises ValueError for a store whose blocks do not divide :data:`POSITIONS`.
        """
        if POSITIONS % store.block_size:
            raise ValueError(f"blocks of {store.block_size} do not divide {POSITIONS} positions")
        self._write, self._store, self._recorder = write, store, recorder
        self._rows, self._width = rows, width
        self._recordings: dict[tuple[int, int], _Recording] = {}
        self._broken = False

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Rows and positions of what is recorded."""
        return tuple(self._recordings)

    def step(self, rows: Sequence[DecodeRow]) -> NDArray[np.float32] | None:
        """Logits (rows, V) of one step; None if it has to be computed without a recording.

        Raises RuntimeError if the device fails in a recorded step or is lost.
        """
        if self._broken or len(rows) > self._rows:
            return None
        shape = self._shape(rows)
        # Blocks in which writing begins hold what an earlier sequence left behind: masked, but not harmless.
        size = self._store.block_size
        self._store.blank([row.blocks[row.position // size] for row in rows if row.position % size == 0])
        recording = self._recordings.get(shape)
        try:
            if recording is None:
                recording = self._recordings[shape] = self._record(*shape, rows)
        except RuntimeError as error:
            if device_lost(error):
                raise
            self._broken = True
            _logger.warning("decodes without recordings: %s", error)
            return None
        self._fill(recording.host, rows, *shape)
        recording.inputs.copy_(recording.host, non_blocking=True)
        recording.outputs.copy_(recording.replay(), non_blocking=True)
        self._recorder.synchronize()
        # A copy: the next step writes to the same memory.
        return recording.outputs[: len(rows)].numpy().copy()

    def _shape(self, rows: Sequence[DecodeRow]) -> tuple[int, int]:
        longest = max(row.position for row in rows) + 1
        return min(1 << (len(rows) - 1).bit_length(), self._rows), -(-longest // POSITIONS) * POSITIONS

    def _record(self, rows: int, length: int, first: Sequence[DecodeRow]) -> _Recording:
        device, blocks = self._recorder.device, length // self._store.block_size
        pinned = device.type == "cuda"
        host = torch.empty(rows * (3 + blocks), dtype=torch.long, pin_memory=pinned)
        outputs = torch.empty((rows, self._width), dtype=torch.float32, pin_memory=pinned)
        inputs = torch.empty_like(host, device=device)
        # Recorded over what the first step asks, so that nothing is written where it should not be.
        self._fill(host, first, rows, length)
        inputs.copy_(host)
        tokens, positions, slots, tables = torch.split(inputs, [rows, rows, rows, rows * blocks])
        cache = StepCache(self._store, slots, tables, rows, length)
        places = torch.arange(length, device=device)

        def work() -> Tensor:
            visible = (places[None] <= positions[:, None])[:, None, None, :]
            return self._write(tokens[:, None], positions=positions[:, None], visible=visible, cache=cache)

        return _Recording(host, inputs, outputs, self._recorder.record(work))

    def _fill(self, host: Tensor, rows: Sequence[DecodeRow], count: int, length: int) -> None:
        size, blocks = self._store.block_size, length // self._store.block_size
        numbers: NDArray[np.int64] = host.numpy()
        tokens, positions, slots = numbers[: 3 * count].reshape(3, count)
        tables = numbers[3 * count :].reshape(count, blocks)
        tokens[:], positions[:] = 0, 0
        slots[:] = self._store.aside * size
        tables[:] = self._store.nothing
        for place, row in enumerate(rows):
            tokens[place], positions[place] = row.token, row.position
            used = row.blocks[: row.position // size + 1]
            slots[place] = used[-1] * size + row.position % size
            tables[place, : len(used)] = used

"""Pictures into one batch, in memory that is kept.

A batch of eight pictures of 640 x 640 is 39 MB. Asked for anew for each batch, such memory comes from the operating
system and goes back to it every time: page by page, and the size of the process is never twice the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


class BatchBuffer:
    """The input of one engine, as large as its largest batch so far. For the engine's one device thread."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.float32)

    def stack(self, tensors: Sequence[Float]) -> Float:
        """`tensors`: n arrays of one shape. Returns (n, *shape) float32, contiguous, valid until the next call.

        One tensor alone is not copied. Raises ValueError for no tensors or for several shapes.
        """
        if not tensors:
            raise ValueError("a batch of nothing")
        shape = tensors[0].shape
        if any(tensor.shape != shape for tensor in tensors):
            raise ValueError(
                f"tensors of one batch have shapes {sorted({tensor.shape for tensor in tensors})}"
            )
        if len(tensors) == 1:
            return np.ascontiguousarray(tensors[0])[None]
        size = sum(tensor.size for tensor in tensors)
        if size > self._memory.size:
            self._memory = np.empty(size, np.float32)
        batch = self._memory[:size].reshape(len(tensors), *shape)
        np.stack(tensors, out=batch)
        return batch

"""Work on a GPU recorded as CUDA graphs, through torch.

Not run on hardware: written to https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs and type-checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

#: Runs before a recording: libraries choose kernels and take workspace at the first ones.
WARM_UPS: Final = 2


class CudaRecorder:
    """Implements :class:`llm_server.decode_graphs.Recorder`. All recordings share one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    @property
    def device(self) -> torch.device:
        """The GPU."""
        return self._device

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See :class:`llm_server.decode_graphs.Recorder`. Waits for the device."""
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            aside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    work()
            current.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # Other threads of the process decode pictures meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, stream=aside, capture_error_mode="thread_local"):
                result = work()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    def synchronize(self) -> None:
        """Wait for the current stream."""
        torch.cuda.current_stream(self._device).synchronize()

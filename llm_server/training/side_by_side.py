"""Threads for scenes that are read side by side in one step, with torch's own threads shared out among them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def side_by_side(threads: int) -> Iterator[ThreadPoolExecutor | None]:
    """Threads among which torch's own are shared out; None for one."""
    if threads == 1:
        yield None
        return
    own = torch.get_num_threads()
    share = max(1, own // threads)
    try:
        with ThreadPoolExecutor(
            threads, "scene", initializer=torch.set_num_threads, initargs=(share,)
        ) as pool:
            yield pool
    finally:
        torch.set_num_threads(own)

"""How a download shows itself: a bar on a terminal, nothing elsewhere (log lines say the rest)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], None]
"""Called with the number of bytes that have just arrived."""

ShowProgress = Callable[[str, int], AbstractContextManager[Advance]]
"""Opens a display for a label and a total in bytes."""


@contextmanager
def silent(label: str, total: int) -> Iterator[Advance]:
    """Shows nothing."""
    del label, total
    yield lambda count: None


@contextmanager
def rich_bar(label: str, total: int) -> Iterator[Advance]:
    """A bar with size, speed and time left, on standard error so that standard output stays machine
    readable.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)


def for_this_terminal() -> ShowProgress:
    """A bar where standard error is a terminal, else nothing."""
    return rich_bar if sys.stderr.isatty() else silent

"""GPU architectures by the names that commands and plans use: `sm86` for compute capability 8.6."""

from __future__ import annotations

import re
from collections.abc import Iterable

from serving.engine.tensorrt.errors import TargetUnsupportedError

_TARGET = re.compile(r"(?:sm_?)?(\d{1,2})\.?(\d)", re.IGNORECASE)


def target_of(major: int, minor: int) -> str:
    """`sm86` for (8, 6)."""
    return f"sm{major}{minor}"


def parse_target(text: str) -> str:
    """`sm86` for `sm86`, `SM_86`, `86` or `8.6`. Raises TargetUnsupportedError for anything else."""
    found = _TARGET.fullmatch(text.strip())
    if found is None:
        raise TargetUnsupportedError(f"{text!r} names no GPU architecture; write sm86 for 8.6")
    return target_of(int(found[1]), int(found[2]))


def parse_targets(text: str) -> tuple[str, ...]:
    """The architectures of a comma-separated list, each once, in order of compute capability."""
    return sort_targets(parse_target(part) for part in text.split(",") if part.strip())


def sort_targets(targets: Iterable[str]) -> tuple[str, ...]:
    """Each once, in order of compute capability."""
    return tuple(sorted(set(targets), key=lambda target: int(target.removeprefix("sm"))))

"""What can go wrong between a name in the manifest and a verified file on disk.

These are start-up errors: they stop a process (or a command) before it serves, so they carry no gRPC status.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class SourceError(Exception):
    """One source could not deliver the artifact; the message says why and the next source is tried."""


@dataclass(frozen=True)
class SourceFailure:
    """A source that was tried, and the reason it was passed over."""

    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class UnknownArtifactError(KeyError):
    """The manifest has no artifact of this name."""

    def __init__(self, artifact: str, known: Sequence[str]) -> None:
        super().__init__(artifact)
        self.artifact = artifact
        self.known = tuple(known)

    def __str__(self) -> str:
        return f"no artifact {self.artifact!r} in the manifest; it has: {', '.join(self.known)}"


class WeightsUnavailableError(Exception):
    """An artifact is neither cached nor obtainable; `failures` names every source that was tried."""

    def __init__(self, artifact: str, reason: str, failures: Sequence[SourceFailure] = ()) -> None:
        self.artifact = artifact
        self.reason = reason
        self.failures = tuple(failures)
        lines = [f"weights {artifact!r}: {reason}", *(f"  - {failure}" for failure in self.failures)]
        super().__init__("\n".join(lines))

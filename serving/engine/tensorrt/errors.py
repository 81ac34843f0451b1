"""What can go wrong between an ONNX graph and a plan that runs.

All are start-up or build-time errors, for whoever operates the mesh: they name what was found, what was wanted and,
where a command mends it, that command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.engine.protocol import EngineError


class TensorRTError(EngineError):
    """Anything below."""


class LibraryAbsentError(TensorRTError):
    """No TensorRT library is installed, or not the one that was asked for."""


class TargetUnsupportedError(TensorRTError):
    """The library cannot build for this GPU architecture here."""


@dataclass(frozen=True)
class ParserProblem:
    """One complaint of the ONNX parser: what, and at which node of the graph."""

    description: str
    code: str
    node: str
    operator: str

    def __str__(self) -> str:
        at = f" at {self.operator or 'node'} {self.node!r}" if self.node or self.operator else ""
        return f"{self.description}{at} ({self.code})"


class GraphRefusedError(TensorRTError):
    """The ONNX parser does not take the graph; `problems` holds everything it said."""

    def __init__(self, graph: str, problems: Sequence[ParserProblem]) -> None:
        self.graph = graph
        self.problems = tuple(problems)
        said = "".join(f"\n  - {problem}" for problem in self.problems) or " without saying why"
        super().__init__(f"{graph}: the ONNX parser of TensorRT refuses it:{said}")


class ProfileError(TensorRTError):
    """An optimisation profile does not fit the inputs of the graph."""


class BuildFailedError(TensorRTError):
    """The graph was parsed, but no plan came out; `log` holds the builder's errors and warnings."""

    def __init__(self, graph: str, log: Sequence[str]) -> None:
        self.graph = graph
        self.log = tuple(log)
        said = "".join(f"\n  - {line}" for line in self.log[-5:]) or " it said nothing"
        super().__init__(f"{graph}: TensorRT could not build a plan:{said}")


class PlanAbsentError(TensorRTError):
    """The store has no plan for the graph; `command` builds one."""

    def __init__(self, message: str, command: str) -> None:
        self.command = command
        super().__init__(f"{message}. Build it: {command}")


class PlanMismatchError(TensorRTError):
    """The plan is for another GPU, library version or graph; `command` builds the right one."""

    def __init__(self, message: str, command: str) -> None:
        self.command = command
        super().__init__(f"{message}. Build the right one: {command}")


class PlanCorruptError(TensorRTError):
    """The bytes on disk are not those that were built; the plan has been removed and `command` builds it again."""

    def __init__(self, message: str, command: str = "") -> None:
        self.command = command
        super().__init__(f"{message}. Build it again: {command}" if command else message)


class StoreFullError(TensorRTError):
    """The disk has no room for the plan; nothing of it was left behind."""

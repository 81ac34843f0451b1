"""The two TensorRT libraries behind one type.

`tensorrt` builds on and for the GPU at hand and is what production runs. `tensorrt_rtx` builds ahead of time for
named architectures, on any machine. Their Python APIs are nearly one, so everything here takes the library as an
argument and touches only what both have; where they differ, `TensorRTLibrary` says so by capability.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast, get_args

from serving.engine.tensorrt.errors import LibraryAbsentError, TargetUnsupportedError
from serving.engine.tensorrt.targets import sort_targets

if TYPE_CHECKING:
    import tensorrt_rtx as types

LibraryName = Literal["tensorrt", "tensorrt_rtx"]
LIBRARIES: tuple[LibraryName, ...] = get_args(LibraryName)
_INSTALL = {
    "tensorrt": "it comes with NVIDIA's TensorRT images and packages",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13",
}


class TensorRTModule(Protocol):
    """What is used of the library's module: classes and enums that both have, typed by the stubs in `stubs/`."""

    __version__: str

    @property
    def Builder(self) -> type[types.Builder]: ...
    @property
    def OnnxParser(self) -> type[types.OnnxParser]: ...
    @property
    def Runtime(self) -> type[types.Runtime]: ...
    @property
    def ILogger(self) -> type[types.ILogger]: ...
    @property
    def IProgressMonitor(self) -> type[types.IProgressMonitor]: ...
    @property
    def BuilderFlag(self) -> type[types.BuilderFlag]: ...
    @property
    def Refitter(self) -> type[types.Refitter]: ...
    @property
    def OnnxParserRefitter(self) -> type[types.OnnxParserRefitter]: ...
    @property
    def ExecutionContextAllocationStrategy(self) -> type[types.ExecutionContextAllocationStrategy]: ...


@dataclass(frozen=True)
class TensorRTLibrary:
    """One installed library. `named_targets`: the architectures it builds for ahead of time, empty if it cannot."""

    name: LibraryName
    version: str
    module: TensorRTModule
    named_targets: tuple[str, ...]

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds for named architectures, whatever GPU is at hand."""
        return bool(self.named_targets)

    @property
    def timing_cache(self) -> bool:
        """Whether builds measure kernels, which a timing cache then remembers; ahead-of-time builds measure nothing."""
        return not self.ahead_of_time

    def check_targets(self, targets: tuple[str, ...], present: tuple[str, ...]) -> None:
        """Whether a plan for `targets` can be built on a machine with the architectures `present`.

        Raises TargetUnsupportedError naming what can be built.
        """
        if not targets:
            raise TargetUnsupportedError("no GPU architecture was named")
        if self.ahead_of_time:
            if unknown := [target for target in targets if target not in self.named_targets]:
                raise TargetUnsupportedError(
                    f"{self.name} {self.version} does not build for {', '.join(unknown)}; "
                    f"it builds for {', '.join(self.named_targets)}"
                )
        elif len(targets) > 1 or targets[0] not in present:
            raise TargetUnsupportedError(
                f"{self.name} builds for the GPU at hand ({', '.join(present) or 'none'}), not for "
                f"{', '.join(targets)}: run the build on a machine with that GPU"
            )


def installed(name: LibraryName) -> bool:
    """Whether the library could be loaded; loads nothing."""
    return importlib.util.find_spec(name) is not None


def load_library(name: LibraryName | None = None) -> TensorRTLibrary:
    """Load the named library, or `tensorrt` where it is installed, else `tensorrt_rtx`.

    Raises LibraryAbsentError saying where to get it.
    """
    names: tuple[LibraryName, ...] = (name,) if name is not None else LIBRARIES
    for candidate in names:
        if installed(candidate):
            return _LOADERS[candidate]()
    ways = "; ".join(f"{candidate}: {_INSTALL[candidate]}" for candidate in names)
    raise LibraryAbsentError(f"TensorRT is not installed ({ways})")


def library_of(name: LibraryName, module: TensorRTModule) -> TensorRTLibrary:
    """What `module` can do."""
    capabilities = getattr(module, "ComputeCapability", None)
    members = capabilities.__members__ if capabilities is not None else {}
    targets = sort_targets(member.lower() for member in members if member.startswith("SM"))
    return TensorRTLibrary(name, module.__version__, module, targets)


def _load_rtx() -> TensorRTLibrary:
    import tensorrt_rtx

    return library_of("tensorrt_rtx", tensorrt_rtx)


def _load_standard() -> TensorRTLibrary:
    return library_of("tensorrt", cast(TensorRTModule, importlib.import_module("tensorrt")))


_LOADERS: dict[LibraryName, Callable[[], TensorRTLibrary]] = {
    "tensorrt": _load_standard,
    "tensorrt_rtx": _load_rtx,
}

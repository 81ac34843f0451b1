"""Which engines this machine can build for and run, found by capability: nothing absent is ever imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serving.engine.tensorrt.gpu import Gpu, present_gpus

# Names under which the wheels of one library come.
_DISTRIBUTIONS = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
}


@dataclass(frozen=True)
class Backend:
    """One engine. `builds`: it makes plans here; `runs`: it answers here; `note`: what is missing, or empty."""

    name: str
    version: str
    builds: bool
    runs: bool
    note: str


def available_backends(
    *,
    find: Callable[[str], object | None] = importlib.util.find_spec,
    gpus: Sequence[Gpu] | None = None,
    providers: Sequence[str] | None = None,
) -> tuple[Backend, ...]:
    """Every engine that is installed, whether or not it can run.

    `find` looks a module up without importing it, `gpus` are those of the driver, `providers` those of the installed
    ONNX Runtime.
    """
    if gpus is None:
        gpus = present_gpus()
    found = []
    if find("onnxruntime") is not None:
        if providers is None:
            import onnxruntime

            providers = onnxruntime.get_available_providers()
        for provider in ("CPU", "CUDA", "Tensorrt"):
            if f"{provider}ExecutionProvider" in providers:
                runs = provider == "CPU" or bool(gpus)
                found.append(
                    Backend(
                        f"onnxruntime-{provider.lower()}",
                        _version(("onnxruntime", "onnxruntime-gpu")),
                        False,
                        runs,
                        "" if runs else "no GPU",
                    )
                )
    for name, distributions in _DISTRIBUTIONS.items():
        if find(name) is not None:
            missing = [what for what, there in (("no GPU", gpus), ("no torch", find("torch"))) if not there]
            builds = name == "tensorrt_rtx" or bool(gpus)
            found.append(Backend(name, _version(distributions), builds, not missing, ", ".join(missing)))
    return tuple(found)


def _version(distributions: Sequence[str]) -> str:
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""

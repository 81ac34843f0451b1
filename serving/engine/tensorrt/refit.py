"""Plans without weights: how they are asked for, and how they get the weights of the ONNX graph when they are loaded.

A stripped plan is kernels alone, so one can be kept for every architecture beside one copy of the weights. It is built
to be refitted with the very weights it was built from, which lets the builder optimise as if it kept them
(`REFIT_IDENTICAL`; plain `REFIT` would not). Both libraries have it; `can_strip` asks by capability.

Not run on hardware, and not built without it either: with `tensorrt_rtx` 1.7 the builder compiles refittable kernels
with the driver, also when it builds ahead of time. The calls are held to the library's types and exercised against a
library of host memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from serving.engine.tensorrt.errors import TargetUnsupportedError, TensorRTError

if TYPE_CHECKING:
    import tensorrt_rtx as types

    from serving.engine.tensorrt.library import TensorRTLibrary

_FLAGS = ("STRIP_PLAN", "REFIT_IDENTICAL")


def can_strip(library: TensorRTLibrary) -> bool:
    """Whether the library has everything that building and loading a stripped plan takes."""
    flags = getattr(library.module, "BuilderFlag", None)
    return (
        flags is not None
        and all(name in flags.__members__ for name in _FLAGS)
        and all(hasattr(library.module, name) for name in ("Refitter", "OnnxParserRefitter"))
    )


def ask_for_stripped(
    library: TensorRTLibrary, config: types.IBuilderConfig, present_targets: tuple[str, ...]
) -> None:
    """Tell the builder to leave the weights out.

    Raises TargetUnsupportedError where the library cannot, or where no driver is present to compile with.
    """
    if not can_strip(library):
        raise TargetUnsupportedError(f"{library.name} {library.version} builds no plans without weights")
    if not present_targets:
        raise TargetUnsupportedError(
            f"{library.name} {library.version} compiles plans without weights with the driver of a GPU, and there is "
            "none here: build on a machine with a GPU, or a whole plan (without --stripped)"
        )
    flags = library.module.BuilderFlag.__members__
    for name in _FLAGS:
        config.set_flag(flags[name])


def refit(library: TensorRTLibrary, engine: types.ICudaEngine, logger: types.ILogger, onnx: Path) -> None:
    """Give the engine the weights of `onnx`, the graph it was built from, in the precision it was built in.

    Raises TensorRTError naming what the library refused or what is still missing.
    """
    refitter = library.module.Refitter(engine, logger)
    parser = library.module.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_file(str(onnx)):
        said = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise TensorRTError(f"{onnx.name}: its weights do not fit the plan: {said or 'no reason was given'}")
    # `tensorrt_rtx` may not count as missing what nothing else depends on, so what was never set is looked for too.
    missing = set(refitter.get_missing_weights())
    missing |= {name for name in refitter.get_all_weights() if not refitter.get_named_weights(name).size}
    if missing:
        named = ", ".join(sorted(missing)[:5])
        raise TensorRTError(f"{onnx.name}: {len(missing)} weights of the plan are not in it, such as {named}")
    if not refitter.refit_cuda_engine():
        raise TensorRTError(f"{onnx.name}: {library.name} did not take the weights")

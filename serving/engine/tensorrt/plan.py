"""What a plan was built from and for, kept beside it as JSON, and the refusal of a plan that does not belong here.

A plan is machine code for one library version and one set of GPU architectures. TensorRT would refuse a wrong one
with a message about magic numbers, or worse, take it; so everything is compared first, in words.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.engine.protocol import TensorSpec
from serving.engine.tensorrt.errors import PlanMismatchError
from serving.engine.tensorrt.library import LibraryName
from serving.engine.tensorrt.profiles import Profile

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
CALIBRATED: tuple[Precision, ...] = ("int8", "fp8")
"""Precisions whose graphs depend on pictures as well."""
_CHUNK = 2**20


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlanKey(_Frozen):
    """Everything that decides what a plan is: two equal keys, one plan.

    `onnx_sha256` is that of the graph as exported (see `graph_digest`); `recipe` says how `precision` was reached
    from it, empty for the graph as it is. `stripped`: the plan has no weights, and gets those of the graph when it is
    loaded.
    """

    graph: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    onnx_sha256: Sha256
    precision: Precision
    recipe: str = ""
    library: LibraryName
    library_version: str
    targets: tuple[str, ...]
    profiles: tuple[Profile, ...]
    stripped: bool = False

    @property
    def digest(self) -> str:
        """The address of the plan in a store: SHA-256 of the key, 64 hex digits."""
        told = self.model_dump(mode="json")
        if not self.stripped:
            # Plans that were built before there were stripped ones keep their addresses.
            del told["stripped"]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


class TensorInfo(_Frozen):
    """A `TensorSpec` as JSON."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    @classmethod
    def of(cls, spec: TensorSpec) -> TensorInfo:
        return cls(name=spec.name, shape=spec.shape, dtype=spec.dtype)

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.shape, self.dtype)


class PlanSidecar(_Frozen):
    """`plan.json`: the key, the tensors, and digests of what lies beside it.

    `file` is the ONNX file of a graph of one's own, as it was named to the command; empty for a graph of the project.
    """

    format: Literal[1] = 1
    key: PlanKey
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    plan_sha256: Sha256
    plan_bytes: Annotated[int, Field(ge=1)]
    log_sha256: Sha256
    build_seconds: Annotated[float, Field(ge=0)]
    file: str = ""

    @property
    def command(self) -> str:
        """The command that builds exactly this plan."""
        key = self.key
        return build_command(
            key.graph,
            key.targets,
            key.precision,
            key.library,
            file=self.file,
            profiles=key.profiles,
            stripped=key.stripped,
        )


def build_command(
    graph: str,
    targets: tuple[str, ...],
    precision: str,
    library: str,
    *,
    file: str | Path = "",
    profiles: Sequence[Profile] = (),
    stripped: bool = False,
) -> str:
    """What to type to build a plan.

    `file`: the ONNX file of a graph that is not the project's own, which is built by its path and, where `profiles` are
    known, for those; where they are not, the command says which inputs need `--shape`. For a precision of `CALIBRATED`
    PICTURES stands for the folder of pictures, and PREPARATION for the one that the expert uses.
    """
    what = [graph]
    if file:
        what = ["--onnx", str(file)]
        if graph != Path(file).stem:
            what += ["--name", graph]
        for profile in profiles:
            for name, shapes in profile.shapes.items():
                what += ["--shape", f"{name}={shapes}"]
    options = ["--targets", ",".join(targets), "--precisions", precision, "--library", library]
    if precision in CALIBRATED:
        options += ["--calibration", "PICTURES", *(["--prepare", "PREPARATION"] if file else [])]
    return shlex.join(
        ["polysight", "engines", "build", *what, *options, *(["--stripped"] if stripped else [])]
    )


def check_plan(
    sidecar: PlanSidecar,
    *,
    onnx_sha256: str,
    library: str,
    version: str,
    target: str,
    file: str | Path = "",
) -> None:
    """Whether the plan may run here: on `target`, by this library, for this graph.

    Raises PlanMismatchError naming every difference and the command that builds the right plan; `file` as for
    `build_command`, unset that of the plan.
    """
    key = sidecar.key
    differences = []
    if target not in key.targets:
        differences.append(f"for {', '.join(key.targets)}, and this GPU is {target}")
    if (key.library, key.library_version) != (library, version):
        differences.append(f"by {key.library} {key.library_version}, and here is {library} {version}")
    if key.onnx_sha256 != onnx_sha256:
        differences.append(f"from graph {key.onnx_sha256[:12]}, and here is {onnx_sha256[:12]}")
    if differences:
        raise PlanMismatchError(
            f"plan of {key.graph} ({key.precision}) was built {'; '.join(differences)}",
            build_command(
                key.graph,
                (target,),
                key.precision,
                library,
                file=file or sidecar.file,
                profiles=key.profiles,
                stripped=key.stripped,
            ),
        )


def graph_digest(onnx: Path) -> str:
    """SHA-256 of an exported graph: the ONNX file, and its weights where they lie beside it in `<name>.data`."""
    digest = hashlib.sha256()
    for file in (onnx, *sorted(onnx.parent.glob(f"{onnx.name}.data*"))):
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()

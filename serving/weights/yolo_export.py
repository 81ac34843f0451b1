"""From a YOLO checkpoint to the ONNX graph that services run: offline, once per machine, cached.

This is the only place that loads ultralytics (AGPL-3.0, the `export` extra), and it does so in a process of
its own: services never import it, nor torch. A checkpoint is a pickle, so it is opened only after its SHA-256
has been verified and the names its pickle refers to have been held against a short allow-list.

The graph has a dynamic batch, height and width, float32, and raw predictions (`serving/yolo.py` describes
them).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from serving.weights.errors import WeightsUnavailableError
from serving.weights.store import WeightStore

OPSET = 20
_RECIPE = f"raw predictions, dynamic axes, float32, opset {OPSET}, exporter 8.4.190"
_TIMEOUT_S = 600

# Exactly the classes that the two checkpoints are made of. Whole modules would not do: beside the layers they
# hold functions that load other files.
_ALLOWED_GLOBALS = frozenset(
    f"{module}.{name}"
    for module, names in {
        "torch.nn.modules.activation": "SiLU",
        "torch.nn.modules.batchnorm": "BatchNorm2d",
        "torch.nn.modules.container": "ModuleList Sequential",
        "torch.nn.modules.conv": "Conv2d ConvTranspose2d",
        "torch.nn.modules.linear": "Identity",
        "torch.nn.modules.pooling": "MaxPool2d",
        "torch.nn.modules.upsampling": "Upsample",
        "ultralytics.nn.modules.block": "Attention Bottleneck C2PSA C3k C3k2 PSABlock Proto26 SPPF",
        "ultralytics.nn.modules.conv": "Concat Conv DWConv",
        "ultralytics.nn.modules.head": "Detect Segment26",
        "ultralytics.nn.tasks": "DetectionModel SegmentationModel",
    }.items()
    for name in names.split()
)


def exported_onnx(store: WeightStore, artifact: str, *, exporter: str = "ultralytics") -> Path:
    """The ONNX graph of the YOLO checkpoint `artifact` ("yolo26n", "yolo26n-seg"), exported if it is not cached.

    `exporter` is the module that must be installed to export; a cached graph needs none.

    Raises WeightsUnavailableError when the checkpoint cannot be had, when the exporter is not installed and
    no earlier export is cached, or when the export fails.
    """
    info = store.licence(artifact)

    def build(destination: Path) -> None:
        if importlib.util.find_spec(exporter) is None:
            raise WeightsUnavailableError(
                artifact,
                "not exported to ONNX yet, and the exporter is not installed. Run `polysight weights fetch` "
                "once with the extra `export` installed (pip install 'polysight[export]') and this cache",
            )
        _export_in_child(artifact, store.verify(artifact), destination)

    return store.derive(f"{artifact}.onnx", key=f"{info.sha256} {_RECIPE}", build=build)


def is_exported(store: WeightStore, artifact: str) -> bool:
    """Whether `exported_onnx` would find the graph cached."""
    return store.is_derived(f"{artifact}.onnx", key=f"{store.licence(artifact).sha256} {_RECIPE}")


def unexpected_globals(checkpoint: Path) -> list[str]:
    """Names that the pickle inside `checkpoint` refers to and that no YOLO checkpoint needs. Loads nothing."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    names = get_unsafe_globals_in_checkpoint(str(checkpoint))
    return sorted(set(names) - _ALLOWED_GLOBALS)


def export(checkpoint: Path, destination: Path) -> None:
    """Inspect, load and export one verified checkpoint. Runs in the child process.

    Raises ValueError naming what the pickle should not refer to.
    """
    if unexpected := unexpected_globals(checkpoint):
        raise ValueError(f"{checkpoint.name} refers to {', '.join(unexpected)}; it is not loaded")
    from ultralytics.models.yolo.model import YOLO

    with TemporaryDirectory() as folder:
        # The exporter writes beside the checkpoint, whose own folder belongs to the cache.
        copy = Path(folder, "model.pt")
        shutil.copyfile(checkpoint, copy)
        exported = YOLO(str(copy)).export(
            format="onnx", dynamic=True, opset=OPSET, simplify=True, device="cpu"
        )
        shutil.move(exported, destination)


def _export_in_child(artifact: str, checkpoint: Path, destination: Path) -> None:
    with TemporaryDirectory() as scratch:
        # No settings file in the home folder, no calls home, no packages installed behind the user's back.
        quiet = {"YOLO_CONFIG_DIR": scratch, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
        command = [sys.executable, "-m", "serving.weights.yolo_export", str(checkpoint), str(destination)]
        done = subprocess.run(
            command,
            env=os.environ | quiet | {"OMP_WAIT_POLICY": "PASSIVE"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise WeightsUnavailableError(
            artifact, f"the export to ONNX failed: {lines[-1] if lines else 'no message'}"
        )


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))

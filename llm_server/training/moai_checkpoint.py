"""A MoAI checkpoint with newly trained tensors in place of the old ones: what a server loads.

Shard by shard, so that memory holds one of them; every tensor keeps its name, its place and its type.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from llm_server.models.checkpoint import tensor_files


def write_checkpoint(source: Path, trained: Mapping[str, Tensor], out: Path) -> None:
    """Writes the checkpoint in ``source`` to ``out`` with the tensors of ``trained`` (by released key) exchanged.

    Raises:
        CheckpointError: ``source`` is no checkpoint.
        ValueError: it does not have one of the tensors, or ``out`` is ``source``.
    """
    if out.resolve() == source.resolve():
        raise ValueError(f"{out} is the checkpoint that was begun with; choose another folder")
    files = tensor_files(source)
    unknown = sorted(trained.keys() - files.keys())
    if unknown:
        raise ValueError(f"{source} has no {unknown[0]}")
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted({file.path for file in files.values()}):
        with safe_open(str(path), framework="pt") as tensors:
            held = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118 - not a dictionary
        for key in held.keys() & trained.keys():
            held[key] = trained[key].detach().to(device="cpu", dtype=held[key].dtype).contiguous()
        save_file(held, out / path.name, metadata={"format": "pt"})
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copyfile(path, out / path.name)

"""Loads CoLLaVO and MoAI from safetensors by the released key grammar, tensor by tensor into a model without storage.

The set of tensors must be exactly the model's: what is missing, unexpected or of another shape is listed. Tensors are
read, converted or quantised, and let go one at a time, so that memory never holds much more than the final model.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from llm_server.models.checkpoint_dimensions import CheckpointError, checkpoint_dimensions
from llm_server.models.clip_positions import stretch_positions
from llm_server.models.collavo import Collavo
from llm_server.models.dimensions import ModelDimensions
from llm_server.models.moai import Moai
from llm_server.models.partial_lora import PartialLoraLinear
from llm_server.models.precision import Precision, precision
from llm_server.models.quantised_linear import quantised_linear
from llm_server.models.vision_language import VisionLanguageModel

INDEX: Final = "model.safetensors.index.json"
_POSITIONS: Final = "vit.vision_tower.vision_model.embeddings.position_embedding.weight"
#: How much of a file may stay mapped, as a share of the checkpoint, before it is let go.
_MAPPED_SHARE: Final = 0.01


class TensorSetError(CheckpointError):
    """The tensors of a checkpoint are not those of the model."""

    def __init__(self, folder: Path, missing: list[str], unexpected: list[str], misshapen: list[str]) -> None:
        self.missing, self.unexpected, self.misshapen = missing, unexpected, misshapen
        parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        told = "; ".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in parts if names)
        super().__init__(f"{folder} does not hold the model's tensors: {told}")


@dataclass(frozen=True)
class TensorFile:
    """Where a tensor is: its file, shape and bytes there."""

    path: Path
    shape: tuple[int, ...]
    size: int


def build(dimensions: ModelDimensions, device: torch.device | str = "meta") -> VisionLanguageModel:
    """A model of these dimensions, in evaluation mode; on "meta" it has shapes but no storage."""
    with torch.device(device):
        model = Collavo(dimensions) if dimensions.kind == "collavo" else Moai(dimensions)
    return model.requires_grad_(False).eval()


def released_key(name: str) -> str:
    """Key in a checkpoint of a parameter of ours: the same, but mixers have their own module here."""
    return name.replace(".attention.mixer.", ".attention.moai_")


def expected_shapes(model: VisionLanguageModel) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that a checkpoint of ``model`` holds, by key."""
    return {released_key(name): tuple(tensor.shape) for name, tensor in model.named_parameters()}


def tensor_files(folder: Path) -> dict[str, TensorFile]:
    """The tensors of a folder by key: of the files its index names, or of all its safetensors files.

    Raises:
        CheckpointError: there are none, a file is missing or broken, two hold the same tensor, or the index says
            otherwise than the files.
    """
    index = folder / INDEX
    listed: Mapping[str, str] = {}
    if index.exists():
        try:
            listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(listed.values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} is not an index of safetensors files: {error!r}") from error
        if any(Path(name).name != name for name in names):
            raise CheckpointError(f"{index} names files outside of its folder")
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        raise CheckpointError(f"{folder} has no safetensors files")
    found: dict[str, TensorFile] = {}
    for name in names:
        for key, tensor in _headers(folder / name):
            if key in found:
                raise CheckpointError(f"{key} is in {found[key].path.name} and in {name}")
            found[key] = tensor
    if listed and {key: file.path.name for key, file in found.items()} != dict(listed):
        raise CheckpointError(f"{index} does not agree with the files that it names")
    return found


def _headers(path: Path) -> Iterator[tuple[str, TensorFile]]:
    try:
        with safe_open(str(path), framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - not a dictionary
                part = tensors.get_slice(key)
                shape = tuple(part.get_shape())
                width = _WIDTHS.get(part.get_dtype())
                if width is None:
                    raise CheckpointError(f"{key} in {path} is {part.get_dtype()}, not a floating-point type")
                yield key, TensorFile(path, shape, width * torch.Size(shape).numel())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


_WIDTHS: Final = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}


def checked(folder: Path, files: Mapping[str, TensorFile], model: VisionLanguageModel) -> None:
    """Raises :class:`TensorSetError` unless ``files`` are exactly the tensors of ``model``.

    The vision tower's position table may have another number of rows: it is stretched on loading.
    """
    wanted = expected_shapes(model)
    misshapen = [
        f"{key} {list(files[key].shape)} instead of {list(shape)}"
        for key, shape in sorted(wanted.items())
        if key in files and files[key].shape != shape and not _stretchable(key, files[key].shape, shape)
    ]
    missing, unexpected = sorted(wanted.keys() - files.keys()), sorted(files.keys() - wanted.keys())
    if missing or unexpected or misshapen:
        raise TensorSetError(folder, missing, unexpected, misshapen)


def _stretchable(key: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    rows = shape[0] - 1
    return key == _POSITIONS and shape[1:] == wanted[1:] and rows > 0 and round(rows**0.5) ** 2 == rows


def load(
    folder: Path,
    chosen: Precision | None = None,
    *,
    device: torch.device | str = "cpu",
    keep_unused: bool = True,
) -> VisionLanguageModel:
    """The model in ``folder``, frozen, in evaluation mode.

    Args:
        folder: config.json and safetensors files, as the released repositories lay them out.
        chosen: precision; float32 by default.
        device: where tensors go.
        keep_unused: False leaves out tensors that take part in nothing (w2's second low-rank pair of CoLLaVO: 0.3 GB
            of the released model in 16 bits).

    Raises:
        CheckpointError: see :func:`tensor_files`, `checkpoint_dimensions`, and :func:`checked`.
    """
    chosen = chosen or precision("fp32")
    device = torch.device(device)
    files = tensor_files(folder)
    dimensions = checkpoint_dimensions(folder, {key: file.shape for key, file in files.items()})
    try:
        model = build(dimensions)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder} tells dimensions that no model has: {error}") from error
    checked(folder, files, model)
    if not keep_unused:
        drop_unused(model)
    names = {released_key(name): name for name, _ in model.named_parameters()}
    kept = {key: file for key, file in files.items() if key in names}
    for key, tensor in _tensors(kept):
        _put(model, names[key], tensor, chosen, device)
    return model.requires_grad_(False).eval()


def drop_unused(model: VisionLanguageModel) -> None:
    """Remove the low-rank pairs that a checkpoint holds and no forward pass uses."""
    for module in model.modules():
        if isinstance(module, PartialLoraLinear):
            module.drop_unused()


def _tensors(files: Mapping[str, TensorFile]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor by key, backed by a mapped file that is closed and opened anew after a share of the checkpoint.

    The largest of a file come first, while there is most room.
    """
    limit = _MAPPED_SHARE * sum(file.size for file in files.values())
    for path in sorted({file.path for file in files.values()}):
        keys = sorted(
            (key for key, file in files.items() if file.path == path), key=lambda key: -files[key].size
        )
        while keys:
            mapped = 0.0
            with safe_open(str(path), framework="pt") as tensors:
                while keys and mapped <= limit:
                    key = keys.pop(0)
                    mapped += files[key].size
                    yield key, tensors.get_tensor(key)
            _return_freed_memory()


def _return_freed_memory() -> None:
    """Hand what was freed back to the system: glibc keeps what quantising used in passing, 6 % of a 4-bit model."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _put(
    model: VisionLanguageModel, name: str, tensor: Tensor, chosen: Precision, device: torch.device
) -> None:
    """Give a parameter its values; a linear layer that is to be quantised is replaced at once."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    if name == _POSITIONS and tensor.shape != getattr(module, attribute).shape:
        grid = model.dimensions.vision.grid
        tensor = torch.from_numpy(stretch_positions(tensor.float().numpy(), grid))
    if chosen.quantises(model.dimensions.kind, path, module):
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, quantised_linear(tensor, chosen, device))
        return
    values = tensor.to(device=device, dtype=chosen.dtype, copy=True)
    setattr(module, attribute, nn.Parameter(values, requires_grad=False))

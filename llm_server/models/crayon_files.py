"""A crayon prompt on disk, in a folder beside the adapters: safetensors, and a config that says what they fit.

crayon/crayon_model.safetensors
crayon/crayon_config.json         shape (see CrayonShape), base, layers with a branch, trained tables, format

A config that does not say which query tables were trained is of a time when both always were.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from llm_server.models.crayon_prompt import CrayonPrompt, Queries, shape_from

FOLDER: Final = "crayon"
CONFIG: Final = "crayon_config.json"
WEIGHTS: Final = "crayon_model.safetensors"
_FORMAT: Final = "crayon-1"


class CrayonRefused(ValueError):
    """A folder that holds no crayon prompt that can be used."""


def save_crayon(
    crayon: CrayonPrompt,
    folder: Path,
    *,
    base: str,
    dtype: torch.dtype | None = torch.bfloat16,
    queries: Queries | None = None,
) -> None:
    """Writes ``crayon`` to ``folder``, which is made; ``dtype`` None keeps its own.

    ``queries`` are the tables that were trained; None takes what ``crayon`` says of itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach().to("cpu", dtype or value.dtype).contiguous()
        for name, value in crayon.state_dict().items()
    }
    partial = folder / f"{WEIGHTS}.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.chmod(0o644)
    config = {
        "format": _FORMAT,
        "base": base,
        "crayon_queries": queries or crayon.queries,
        "shape": asdict(crayon.shape),
        "outputs": crayon.outputs,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / WEIGHTS)


def load_crayon(folder: Path, *, base: str) -> CrayonPrompt:
    """The crayon prompt of ``folder``, frozen, in float32; it leaves out a table that was not trained.

    Raises:
        CrayonRefused: files are missing or malformed, or it was made for another base.
    """
    config = _config(folder)
    if config["base"].rsplit("/", maxsplit=1)[-1].casefold() != base.rsplit("/", maxsplit=1)[-1].casefold():
        raise CrayonRefused(f"the crayon prompt in {folder} was made for {config['base']}, not {base}")
    try:
        crayon = CrayonPrompt(shape_from(config["shape"]), config["outputs"], config["crayon_queries"])
        tensors = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
        crayon.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise CrayonRefused(f"the crayon prompt in {folder} cannot be read: {error}") from error
    return crayon.requires_grad_(False).eval()


def sha256(folder: Path) -> str:
    """Of the weights file, lower-case hexadecimal."""
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CrayonRefused(f"{folder / CONFIG} cannot be read: {error}") from error
    fits = isinstance(config, dict) and config.get("format") == _FORMAT
    kinds = {"base": str, "shape": dict, "outputs": dict}
    if not fits or not all(isinstance(config.get(key), kind) for key, kind in kinds.items()):
        raise CrayonRefused(f"{folder / CONFIG} is not a crayon prompt's")
    queries = config.get("crayon_queries", "both")
    if queries not in get_args(Queries):
        raise CrayonRefused(f"{folder / CONFIG} speaks of query tables that nobody knows: {queries!r}")
    return {**config, "crayon_queries": queries}

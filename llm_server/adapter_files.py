"""Adapters on disk: folders as peft saves them, looked at before any of it is loaded.

Only safetensors are read, never a pickle. What is refused is refused with the reason: another base model, a kind of
adapter whose contributions cannot simply be summed, files missing.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
DESCRIPTION = "description.txt"


class AdapterRefused(ValueError):
    """An adapter folder that cannot be served. ``base`` is set when it was made for another base model."""

    def __init__(self, name: str, why: str, *, base: str | None = None) -> None:
        super().__init__(f"adapter {name}: {why}")
        self.name = name
        self.base = base


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """One adapter that may be loaded. ``sha256`` is of the weights file, lower-case hexadecimal."""

    name: str
    folder: Path
    base: str
    rank: int
    alpha: float
    sha256: str
    description: str
    default_scale: float = 1.0
    targets: tuple[str, ...] | str = ()
    rank_stabilised: bool = False

    @property
    def scaling(self) -> float:
        """What the low-rank product is multiplied by: alpha / rank, or alpha / sqrt(rank) if rank-stabilised."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

    def sits_on(self, linear: str) -> bool:
        """Whether the config names the linear layer ``linear`` (its full name), by peft's rules.

        A list names endings of whole parts; a text is "all-linear" or a regular expression of the full name.
        """
        if isinstance(self.targets, str):
            return self.targets == "all-linear" or re.fullmatch(self.targets, linear) is not None
        return any(linear == target or linear.endswith(f".{target}") for target in self.targets)

    @property
    def weights(self) -> Path:
        """The safetensors file."""
        return self.folder / WEIGHTS


def read_adapters(root: Path, *, base: str) -> list[AdapterFiles]:
    """Every adapter in a folder below ``root``, by name. ``base`` is the name of the model they must be made for.

    A folder without a config is not an adapter. No ``root`` means no adapters. Raises :class:`AdapterRefused`.
    """
    if not root.is_dir():
        return []
    return [read_adapter(path.parent, base=base) for path in sorted(root.glob(f"*/{CONFIG}"))]


def read_adapter(folder: Path, *, base: str, name: str = "") -> AdapterFiles:
    """The adapter in ``folder``, named like the folder unless ``name`` says otherwise.

    Raises :class:`AdapterRefused`.
    """
    name = name or folder.name
    config = _read_config(folder / CONFIG, name)
    made_for = str(config.get("base_model_name_or_path") or "")
    if _short(made_for) != _short(base):
        raise AdapterRefused(
            name, f"it was made for {made_for or 'an unnamed base'}, not {base}", base=made_for
        )
    if config.get("peft_type") != "LORA":
        raise AdapterRefused(name, f"its kind is {config.get('peft_type')!r}, not LORA")
    not_plain = [
        key
        for key in (
            *("use_dora", "modules_to_save", "lora_bias", "trainable_token_indices", "fan_in_fan_out"),
            *("rank_pattern", "alpha_pattern", "layers_to_transform", "exclude_modules", "target_parameters"),
        )
        if config.get(key)
    ]
    if config.get("bias", "none") != "none":
        not_plain.append("bias")
    if not_plain:
        raise AdapterRefused(name, f"{', '.join(not_plain)} cannot be summed with other adapters")
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise AdapterRefused(name, f"{WEIGHTS} is missing (other formats are not read)")
    targets = config.get("target_modules")
    if not isinstance(targets, str) and not (
        isinstance(targets, list) and all(isinstance(one, str) for one in targets)
    ):
        raise AdapterRefused(name, "target_modules is neither a text nor a list of texts")
    if config["r"] < 1:
        raise AdapterRefused(name, f"its rank is {config['r']}")
    description = folder / DESCRIPTION
    return AdapterFiles(
        name=name,
        folder=folder,
        base=made_for,
        rank=int(config["r"]),
        alpha=float(config["lora_alpha"]),
        sha256=_sha256(weights),
        description=description.read_text("utf-8").strip() if description.is_file() else "",
        targets=targets if isinstance(targets, str) else tuple(targets),
        rank_stabilised=bool(config.get("use_rslora")),
    )


def _read_config(path: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterRefused(name, f"{CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise AdapterRefused(name, f"{CONFIG} is not an object")
    missing = [key for key in ("r", "lora_alpha") if not isinstance(config.get(key), int | float)]
    if missing:
        raise AdapterRefused(name, f"{CONFIG} lacks {', '.join(missing)}")
    return config


def _short(base: str) -> str:
    """The last part of a model's name: owners and folders in front of it vary."""
    return base.rstrip("/").rsplit("/", maxsplit=1)[-1].casefold()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""The folder of a run: it belongs to one run with one set of settings, which can be taken up where it was cut.

A run may also begin with the adapters that another run has left in its folder.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llm_server.models.crayon_files import CONFIG
from llm_server.models.crayon_files import FOLDER as CRAYON_FOLDER
from llm_server.models.crayon_files import sha256 as crayon_sha256
from llm_server.training.dual_settings import AdapterSettings, TrainingRefused
from llm_server.training.question import TASKS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SETTINGS: Final = "settings.json"
CARD: Final = "run_card.json"


def claim(out: Path, settings: DataclassInstance, resume: bool) -> None:
    """Makes ``out`` the folder of a run with these settings, or checks that it is.

    Raises:
        TrainingRefused: it holds a run and ``resume`` is not set, or a run with other settings.
    """
    path = out / SETTINGS
    told = json.loads(json.dumps(asdict(settings)))
    if path.is_file():
        if not resume:
            raise TrainingRefused(f"{out} holds a run already: resume it, or choose another folder")
        if json.loads(path.read_text(encoding="utf-8")) != told:
            raise TrainingRefused(f"the run in {out} has other settings: it cannot be resumed with these")
        return
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def adapters_digest(folder: Path, expected: AdapterSettings, *, base: str) -> str:
    """SHA-256 over both adapters' tensors in ``folder``, and the crayon prompt's if it holds one.

    Raises:
        TrainingRefused: an adapter is not there, is of another rank or alpha, or was made for another base.
    """
    digest = hashlib.sha256()
    for task in TASKS:
        try:
            config = json.loads((folder / task / "adapter_config.json").read_text(encoding="utf-8"))
            digest.update((folder / task / "adapter_model.safetensors").read_bytes())
        except (OSError, ValueError) as error:
            raise TrainingRefused(f"{folder / task} holds no adapter to go on from: {error}") from error
        if config.get("base_model_name_or_path") != base:
            raise TrainingRefused(
                f"{folder / task} is for {config.get('base_model_name_or_path')}, not {base}"
            )
        own = AdapterSettings(rank=config.get("r"), alpha=config.get("lora_alpha"))
        if own != expected:
            raise TrainingRefused(f"{folder / task} is {own}, and the run's adapters are {expected}")
    if (folder / CRAYON_FOLDER / CONFIG).is_file():
        digest.update(bytes.fromhex(crayon_sha256(folder / CRAYON_FOLDER)))
    return digest.hexdigest()


def write_card(out: Path, card: dict[str, Any]) -> None:
    """Writes the run card."""
    (out / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Of what training stands on."""
    packages = ("torch", "transformers", "peft", "accelerate")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}

"""Which adapter folders are served, and which are refused, with the reason."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from llm_server.adapter_files import AdapterRefused, read_adapters
from llm_server.adapter_set import AdapterSet
from llm_server.tiny_model import BASE_NAME, save_tiny_adapter, tiny_model

VOCABULARY = 320


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_adapter(tmp_path / "object", VOCABULARY, seed=1)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_read(folder: Path) -> None:
    (folder / "description.txt").write_text("Lists and counts objects.\n")
    (adapter,) = read_adapters(folder.parent, base=BASE_NAME)
    weights = (folder / "adapter_model.safetensors").read_bytes()
    assert (adapter.name, adapter.rank, adapter.alpha) == ("object", 4, 8.0)
    assert adapter.sha256 == hashlib.sha256(weights).hexdigest()
    assert adapter.description == "Lists and counts objects."


@pytest.mark.parametrize("base", [f"owner/{BASE_NAME}", f"./some/folder/{BASE_NAME}/", BASE_NAME.upper()])
def test_the_owner_of_the_base_may_differ(folder: Path, base: str) -> None:
    edit(folder, base_model_name_or_path=base)
    assert len(read_adapters(folder.parent, base=f"another/{BASE_NAME}")) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"base_model_name_or_path": "internlm2-7b"}, "made for internlm2-7b"),
        ({"base_model_name_or_path": None}, "made for an unnamed base"),
        ({"peft_type": "IA3"}, "not LORA"),
        ({"use_dora": True}, "use_dora cannot be summed"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"r": "eight"}, "lacks r"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_refused(folder: Path, change: dict[str, Any], why: str) -> None:
    edit(folder, **change)
    with pytest.raises(AdapterRefused, match=why):
        read_adapters(folder.parent, base=BASE_NAME)


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_a_config_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(AdapterRefused):
        read_adapters(folder.parent, base=BASE_NAME)


def test_only_safetensors_are_read(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterRefused, match="safetensors is missing"):
        read_adapters(folder.parent, base=BASE_NAME)


@pytest.mark.parametrize("modules", [["q_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"]])
def test_tensors_that_are_not_those_of_the_config_are_refused(folder: Path, modules: list[str]) -> None:
    edit(folder, target_modules=modules)
    with pytest.raises(AdapterRefused, match="do not match"):
        AdapterSet(tiny_model(VOCABULARY), read_adapters(folder.parent, base=BASE_NAME))


def test_tensors_of_another_size_are_refused(folder: Path) -> None:
    edit(folder, r=2)
    with pytest.raises(AdapterRefused, match="do not fit"):
        AdapterSet(tiny_model(VOCABULARY), read_adapters(folder.parent, base=BASE_NAME))


def test_torn_weights_are_refused(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(AdapterRefused):
        AdapterSet(tiny_model(VOCABULARY), read_adapters(folder.parent, base=BASE_NAME))


def test_no_folder_means_no_adapters(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    assert read_adapters(tmp_path, base=BASE_NAME) == []
    assert read_adapters(tmp_path / "nowhere", base=BASE_NAME) == []

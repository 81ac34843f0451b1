"""A tiny random model with two adapters, made once per run."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from llm_server.adapter_files import AdapterFiles
    from llm_server.adapter_set import AdapterSet
    from llm_server.tokenizer import ChatTokenizer

VOCABULARY = 320


@pytest.fixture(scope="session")
def adapters_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the adapters ``object`` (rank 4) and ``vl`` (rank 2)."""
    from llm_server.tiny_model import save_tiny_adapter

    root = tmp_path_factory.mktemp("adapters")
    save_tiny_adapter(root / "object", VOCABULARY, seed=1, rank=4)
    save_tiny_adapter(root / "vl", VOCABULARY, seed=2, rank=2)
    return root


@pytest.fixture(scope="session")
def adapter_files(adapters_root: Path) -> list[AdapterFiles]:
    from llm_server.adapter_files import read_adapters
    from llm_server.tiny_model import BASE_NAME

    return read_adapters(adapters_root, base=BASE_NAME)


@pytest.fixture
def adapter_set(adapter_files: list[AdapterFiles]) -> AdapterSet:
    """A fresh tiny model with both adapters loaded."""
    from llm_server.adapter_set import AdapterSet
    from llm_server.tiny_model import tiny_model

    return AdapterSet(tiny_model(VOCABULARY), adapter_files)


@pytest.fixture(scope="session")
def chat_tokenizer() -> ChatTokenizer:
    from llm_server.tiny_model import tiny_tokenizer
    from llm_server.tokenizer import ChatTokenizer

    return ChatTokenizer(tiny_tokenizer())


@pytest.fixture
def no_sleep() -> Callable[[], float]:
    """A clock that stands still."""
    return lambda: 0.0

"""Joined adapters stay while a request reads them, and no longer than they are kept."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from llm_server.adapter_files import AdapterFiles
from llm_server.faults import EngineClosedFault
from llm_server.vllm_adapters import JoinedAdapters, ScaledFiles


def word(name: str, number: int, path: str) -> tuple[str, int, Path]:
    """In place of vLLM's."""
    return name, number, Path(path)


def left_in(folder: Path) -> list[Path]:
    return [*folder.iterdir()]


async def used(joined: JoinedAdapters, files: ScaledFiles) -> Any:
    async with joined.using(files) as one:
        assert one[2].is_dir()
        return one


async def test_only_the_latest_sets_stay(tmp_path: Path, adapter_files: list[AdapterFiles]) -> None:
    joined = JoinedAdapters(word, tmp_path, kept=2)
    sets = [[(adapter_files[0], 1.0 + number)] for number in range(5)]
    words = [await used(joined, files) for files in sets]
    assert [number for _, number, _ in words] == [1, 2, 3, 4, 5]
    # The set of this moment counts as used until its request is over, so that two more stay.
    assert [path.is_dir() for _, _, path in words] == [False, False, True, True, True]
    assert await used(joined, sets[3]) == words[3]
    again = await used(joined, sets[0])
    assert again[0] != words[0][0]
    assert again[1] == 6
    joined.close()
    assert left_in(tmp_path) == []


async def test_what_a_request_reads_is_not_removed(tmp_path: Path, adapter_files: list[AdapterFiles]) -> None:
    joined = JoinedAdapters(word, tmp_path, kept=0)
    async with joined.using([(adapter_files[0], 1.0)]) as first:
        async with joined.using([(adapter_files[0], 1.0)]) as same:
            assert same == first
        for scale in (2.0, 3.0):
            await used(joined, [(adapter_files[1], scale)])
        assert first[2].is_dir()
    await used(joined, [(adapter_files[1], 4.0)])
    assert not first[2].exists()
    joined.close()


async def test_many_ask_for_one_set_and_it_is_written_once(
    tmp_path: Path, adapter_files: list[AdapterFiles]
) -> None:
    made: list[str] = []

    def count(name: str, number: int, path: str) -> tuple[str, int, Path]:
        made.append(name)
        return word(name, number, path)

    joined = JoinedAdapters(count, tmp_path)
    both = [(one, 0.5) for one in adapter_files]
    words = await asyncio.gather(*(used(joined, both) for _ in range(8)))
    assert len(set(words)) == len(made) == 1
    joined.close()


async def test_closed_it_writes_nothing_more(tmp_path: Path, adapter_files: list[AdapterFiles]) -> None:
    joined = JoinedAdapters(word, tmp_path)
    joined.close()
    joined.close()
    with pytest.raises(EngineClosedFault):
        await used(joined, [(adapter_files[0], 1.0)])
    assert left_in(tmp_path) == []


async def test_a_set_that_cannot_be_joined_is_tried_again(
    tmp_path: Path, adapter_files: list[AdapterFiles]
) -> None:
    joined = JoinedAdapters(word, kept=0)
    files = replace(adapter_files[0], folder=tmp_path)
    torn, whole = b"torn", adapter_files[0].weights.read_bytes()
    files.weights.write_bytes(torn)
    with pytest.raises(SafetensorError):
        await used(joined, [(files, 1.0)])
    files.weights.write_bytes(whole)
    assert (await used(joined, [(files, 1.0)]))[1] == 1
    joined.close()

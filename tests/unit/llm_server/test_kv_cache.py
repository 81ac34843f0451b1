"""Blocks are counted right, shared when they may be, and forgotten in the right order."""

from __future__ import annotations

import pytest

from llm_server.kv_cache import BlockPool, BlockTable


def read(pool: BlockPool, table: BlockTable, tokens: list[int]) -> None:
    table.computed = len(tokens)
    pool.publish(table, tokens)


def opened(pool: BlockPool, tokens: list[int], root: bytes = b"") -> BlockTable:
    table = pool.open(root, tokens)
    assert table is not None
    return table


def test_a_second_table_begins_with_the_whole_blocks_of_the_first() -> None:
    pool = BlockPool(16, 4)
    first = opened(pool, [*range(10)])
    read(pool, first, [*range(10)])
    second = opened(pool, [*range(9), 77])
    assert second.computed == 8
    assert second.blocks[:2] == first.blocks[:2]
    assert not set(second.blocks[2:]) & set(first.blocks)
    assert pool.in_use == len({*first.blocks, *second.blocks})


def test_other_adapters_share_nothing() -> None:
    pool = BlockPool(16, 4)
    read(pool, opened(pool, [*range(10)], b"a"), [*range(10)])
    assert opened(pool, [*range(10)], b"b").computed == 0


def test_the_last_token_is_always_left_to_read() -> None:
    pool = BlockPool(16, 4)
    read(pool, opened(pool, [*range(8)]), [*range(8)])
    assert opened(pool, [*range(8)]).computed == 4
    assert opened(pool, [*range(9)]).computed == 8


def test_what_nobody_uses_is_remembered_until_its_memory_is_needed_oldest_first() -> None:
    pool = BlockPool(6, 4)
    for start in (0, 100):
        tokens = [*range(start, start + 8)]
        table = opened(pool, tokens)
        read(pool, table, tokens)
        pool.close(table)
    assert (pool.in_use, pool.remembered, pool.available) == (0, 4, 6)
    other = opened(pool, [*range(200, 214)])  # four blocks: two are free, two are taken from the first
    assert other.computed == 0
    pool.close(other)
    assert opened(pool, [*range(9)]).computed == 0
    assert opened(pool, [*range(100, 109)]).computed == 8


def test_of_a_prefix_the_end_is_forgotten_first() -> None:
    pool = BlockPool(4, 4)
    tokens = [*range(12)]
    table = opened(pool, tokens)
    read(pool, table, tokens)
    pool.close(table)
    pool.close(opened(pool, [*range(50, 54)]))  # two blocks: the free one, and the end of the prefix
    again = opened(pool, [*range(12), 0])
    assert again.computed == 8


def test_what_failed_is_not_found_again() -> None:
    pool = BlockPool(8, 4)
    table = opened(pool, [*range(8)])
    read(pool, table, [*range(8)])
    pool.close(table, keep=False)
    assert (pool.remembered, pool.available) == (0, 8)
    assert opened(pool, [*range(9)]).computed == 0


def test_without_room_nothing_changes() -> None:
    pool = BlockPool(4, 4)
    first = opened(pool, [*range(10)])
    assert pool.open(b"", [*range(50, 60)]) is None
    assert pool.open(b"", [0], spare=1) is None
    assert not pool.reserve(first, 17)
    assert len(first.blocks) == 3
    assert pool.reserve(first, 16)
    assert pool.available == 0


def test_reviving_what_is_remembered_counts_as_taking_it() -> None:
    pool = BlockPool(3, 4)
    tokens = [*range(8)]
    table = opened(pool, tokens)
    read(pool, table, tokens)
    pool.close(table)
    held = opened(pool, [90])
    assert pool.open(b"", [*range(8), 9, 9, 9, 9]) is None  # two found and two new: one too many
    assert pool.in_use == 1
    pool.close(held)
    assert pool.available == 3


def test_forks_share_until_one_writes() -> None:
    pool = BlockPool(8, 4)
    table = opened(pool, [*range(5)])
    table.computed = 5
    fork = pool.fork(table)
    assert pool.in_use == 2
    assert pool.shared(fork, 5)
    old = fork.blocks[1]
    copy = pool.own(fork, 5)
    assert copy == (old, fork.blocks[1])
    assert fork.blocks[0] == table.blocks[0]
    assert not pool.shared(fork, 5)
    assert not pool.shared(table, 5)
    pool.close(table)
    pool.close(fork)
    assert pool.in_use == 0


def test_a_pool_without_memory_finds_nothing() -> None:
    pool = BlockPool(8, 4, reuse=False)
    table = opened(pool, [*range(8)])
    read(pool, table, [*range(8)])
    pool.close(table)
    assert opened(pool, [*range(9)]).computed == 0
    assert pool.remembered == 0


@pytest.mark.parametrize(("blocks", "size"), [(0, 4), (4, 0)])
def test_a_pool_of_nothing_is_refused(blocks: int, size: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        BlockPool(blocks, size)

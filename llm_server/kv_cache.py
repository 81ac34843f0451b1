"""Which block of the key-value store belongs to whom: counts, tables and hashes, no tensors.

Keys and values live in blocks of ``block_size`` positions (:mod:`llm_server.kv_store` has the memory). A sequence has a
table of blocks; tables that begin with the same tokens under the same adapters share blocks, found by a hash chain over
whole blocks. A block that nobody uses any more keeps its content until its memory is needed, least recently used first,
so that a second question on the same picture, or the next turn of a chat, finds what was read before.

Not thread-safe: the engine holds its lock around each call.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class BlockTable:
    """Where one row keeps its keys and values: position p is in ``blocks[p // block_size]``.

    ``computed`` positions are written. ``digests`` name the whole blocks among them that others may find; ``root``
    begins the chain, and differs where the same tokens give other keys and values (other adapters, another picture);
    None: nothing is shared with anyone.
    """

    root: bytes | None
    blocks: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    computed: int = 0


class BlockPool:
    """All blocks of a server: free, in use by one or several tables, or unused but remembered."""

    def __init__(self, blocks: int, block_size: int, *, reuse: bool = True) -> None:
        """``reuse`` off: nothing is ever found again, each prompt is read anew."""
        if min(blocks, block_size) < 1:
            raise ValueError("there is at least one block, of at least one position")
        self.blocks = blocks
        self.block_size = block_size
        self._reuse = reuse
        self._free: deque[int] = deque(range(blocks))
        self._users: list[int] = [0] * blocks
        self._digest_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = (
            OrderedDict()
        )  # unused but remembered, the next to be forgotten first

    @property
    def capacity(self) -> int:
        """Positions that fit when one sequence has it all."""
        return self.blocks * self.block_size

    @property
    def available(self) -> int:
        """Blocks that can be handed out."""
        return len(self._free) + len(self._idle)

    @property
    def in_use(self) -> int:
        """Blocks that some table holds."""
        return self.blocks - self.available

    @property
    def remembered(self) -> int:
        """Blocks that nobody uses, but whose content can be found."""
        return len(self._idle)

    def needed(self, positions: int) -> int:
        """Blocks that hold so many positions."""
        return -(-positions // self.block_size)

    def open(
        self,
        root: bytes | None,
        tokens: Sequence[int],
        *,
        spare: int = 0,
        usable: Callable[[int], int] = lambda found: found,
    ) -> BlockTable | None:
        """A table with room for ``tokens`` and one more, beginning with whatever is there already.

        At least the last token is left to be computed, as its logits are wanted. ``usable`` says how many of so many
        tokens that are there are taken. None, with nothing changed, if that would leave fewer than ``spare`` blocks
        available.
        """
        found = self._match(root, tokens[: len(tokens) - 1])
        del found[usable(len(found) * self.block_size) // self.block_size :]
        revived = sum(1 for _, block in found if self._users[block] == 0)
        fresh = self.needed(len(tokens) + 1) - len(found)
        if fresh + revived + spare > self.available:
            return None
        table = BlockTable(root, computed=len(found) * self.block_size)
        for digest, block in found:
            self._use(block)
            table.blocks.append(block)
            table.digests.append(digest)
        table.blocks += [self._take() for _ in range(fresh)]
        return table

    def reserve(self, table: BlockTable, positions: int) -> bool:
        """Room for ``positions`` in all; False, with nothing changed, if there is none."""
        missing = self.needed(positions) - len(table.blocks)
        if missing > self.available:
            return False
        table.blocks += [self._take() for _ in range(missing)]
        return True

    def fork(self, table: BlockTable) -> BlockTable:
        """A second table over the same blocks. Before either writes into one of them: :meth:`own`."""
        for block in table.blocks:
            self._users[block] += 1
        return BlockTable(table.root, [*table.blocks], [*table.digests], table.computed)

    def shared(self, table: BlockTable, position: int) -> bool:
        """Whether other tables use the block of ``position`` too, so that it must not be written."""
        return self._users[table.blocks[position // self.block_size]] > 1

    def own(self, table: BlockTable, position: int) -> tuple[int, int] | None:
        """Give the table a block of its own in place of the shared one of ``position``.

        Returns (from, to): the caller copies the content. None, with nothing changed, if no block is available.
        """
        if not self.available:
            return None
        index = position // self.block_size
        old, new = table.blocks[index], self._take()
        self._users[old] -= 1
        table.blocks[index] = new
        return old, new

    def publish(self, table: BlockTable, tokens: Sequence[int]) -> None:
        """The whole blocks among the first ``table.computed`` of ``tokens`` can be found from now on."""
        if not self._reuse or table.root is None:
            return
        size = self.block_size
        while (len(table.digests) + 1) * size <= table.computed:
            index = len(table.digests)
            digest = _digest(
                table.digests[-1] if index else table.root, tokens[index * size : (index + 1) * size]
            )
            block = table.blocks[index]
            table.digests.append(digest)
            if digest not in self._block_of and block not in self._digest_of:
                self._block_of[digest] = block
                self._digest_of[block] = digest

    def close(self, table: BlockTable, *, keep: bool = True) -> None:
        """The table is not used any more. ``keep`` off: what it alone held is not to be found again (it failed)."""
        # Last blocks first: of a prefix, its end is forgotten before its beginning.
        for block in reversed(table.blocks):
            self._users[block] -= 1
            if self._users[block]:
                continue
            if keep and block in self._digest_of:
                self._idle[block] = None
            else:
                self._forget(block)
                self._free.append(block)
        table.blocks.clear()
        table.digests.clear()
        table.computed = 0

    def _match(self, root: bytes | None, tokens: Sequence[int]) -> list[tuple[bytes, int]]:
        found: list[tuple[bytes, int]] = []
        if root is None:
            return found
        digest = root
        for start in range(0, len(tokens) - self.block_size + 1, self.block_size):
            digest = _digest(digest, tokens[start : start + self.block_size])
            block = self._block_of.get(digest)
            if block is None:
                break
            found.append((digest, block))
        return found

    def _use(self, block: int) -> None:
        if self._users[block] == 0:
            del self._idle[block]
        self._users[block] += 1

    def _take(self) -> int:
        if self._free:
            block = self._free.popleft()
        else:
            block, _ = self._idle.popitem(last=False)
            self._forget(block)
        self._users[block] = 1
        return block

    def _forget(self, block: int) -> None:
        digest = self._digest_of.pop(block, None)
        if digest is not None:
            del self._block_of[digest]


def _digest(parent: bytes, tokens: Sequence[int]) -> bytes:
    content = b"".join(token.to_bytes(4, "little") for token in tokens)
    return hashlib.blake2b(parent + content, digest_size=16).digest()

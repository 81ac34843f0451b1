"""Sets of adapters as one adapter each, on disk for as long as vLLM may read them: it takes one to a request, by path.

Every set with its scales is joined the first time it is asked for (:mod:`llm_server.lora_concatenation`). Scales are
the caller's, so that there is no end to the sets: the latest are kept, and what a running request reads. The folder is
this process's own and goes with :meth:`JoinedAdapters.close`.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import shutil
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llm_server.adapter_files import AdapterFiles
from llm_server.faults import EngineClosedFault
from llm_server.lora_concatenation import save_concatenated

#: Adapters with their scales.
ScaledFiles = Sequence[tuple[AdapterFiles, float]]


@dataclass(slots=True)
class _Joined:
    """One set: its number and folder, how many requests use it, and vLLM's word for it once it is written."""

    number: int
    folder: Path
    users: int = 0
    request: Any | None = None


class JoinedAdapters:
    """The sets that have been asked for. Safe from any thread."""

    def __init__(
        self, lora_request: Callable[[str, int, str], Any], scratch: Path | None = None, *, kept: int = 16
    ) -> None:
        """``lora_request`` makes vLLM's word of a name, a number and a path.

        Folders are made in one of their own below ``scratch`` (None: the system's place for such). ``kept`` sets stay
        when nobody uses them.
        """
        self._lora_request = lora_request
        self._folder = TemporaryDirectory(prefix="polysight-adapters-", dir=scratch)
        self._kept = kept
        self._numbers = itertools.count(1)
        self._sets: OrderedDict[tuple[tuple[str, float], ...], _Joined] = OrderedDict()
        self._counting = threading.Lock()
        # Held while files are written or removed, so that nothing is removed half written.
        self._writing = threading.Lock()
        self._closed = False

    @asynccontextmanager
    async def using(self, files: ScaledFiles) -> AsyncIterator[Any]:
        """vLLM's word for a set, which stays on disk within; written beside the loop.

        Raises EngineClosedFault after :meth:`close`, and what
        :func:`llm_server.lora_concatenation.save_concatenated` does.
        """
        key = tuple((one.sha256, scale) for one, scale in files)
        with self._counting:
            joined = self._sets.get(key)
            if joined is None:
                joined = self._sets[key] = self._new(key)
            self._sets.move_to_end(key)
            joined.users += 1
        try:
            yield await asyncio.to_thread(self._written, joined, files)
        finally:
            with self._counting:
                joined.users -= 1

    def close(self) -> None:
        """Remove everything. Waits for what is being written; harmless when repeated."""
        with self._writing:
            self._closed = True
            self._folder.cleanup()

    def _new(self, key: tuple[tuple[str, float], ...]) -> _Joined:
        number = next(self._numbers)
        # A set that was removed and is asked for again is another one to vLLM, which remembers them by name.
        name = f"{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}-{number}"
        return _Joined(number, Path(self._folder.name) / name)

    def _written(self, joined: _Joined, files: ScaledFiles) -> Any:
        with self._writing:
            if self._closed:
                raise EngineClosedFault("the engine is closed")
            if joined.request is None:
                save_concatenated(files, joined.folder)
                joined.request = self._lora_request(joined.folder.name, joined.number, str(joined.folder))
            for gone in self._surplus():
                if gone.folder.exists():
                    shutil.rmtree(gone.folder)
            return joined.request

    def _surplus(self) -> list[_Joined]:
        """What is forgotten now: of the sets that nobody uses, the longest unused beyond those that are kept."""
        with self._counting:
            unused = [key for key, joined in self._sets.items() if not joined.users]
            return [self._sets.pop(key) for key in unused[: max(0, len(unused) - self._kept)]]

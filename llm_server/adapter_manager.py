"""Loading, replacing and unloading adapters while answers are being written.

The files are read and held against the base on the caller's thread; only the stacking happens between two steps of the
engine. Sequences that began with a version keep it; it is dropped when the last of them has ended.
"""

from __future__ import annotations

from pathlib import Path

from llm_server.adapter_files import AdapterRefused, read_adapter
from llm_server.adapter_registry import AdapterRegistry, LoadedAdapter
from llm_server.adapter_set import AdapterSet
from llm_server.engine import Engine

#: More would make every step slower for everyone: all that are loaded are computed for every row.
MOST_ADAPTERS = 16


class AdapterManager:
    """Changes which adapters one engine serves. Its methods block: seconds at most."""

    def __init__(
        self, engine: Engine, registry: AdapterRegistry, adapters: AdapterSet, *, base: str, store: Path
    ) -> None:
        """``store`` is where adapters may be loaded from, a folder each; ``base`` is what they are made for."""
        self._engine = engine
        self._registry = registry
        self._adapters = adapters
        self._base = base
        self._store = store

    def load(
        self, name: str, *, folder: str = "", by_default: bool | None = None
    ) -> tuple[LoadedAdapter, LoadedAdapter | None]:
        """Load ``folder`` of the store (``name`` if empty) under ``name``; returns it, and the version it replaces.

        ``by_default`` as in :meth:`llm_server.adapter_registry.AdapterRegistry.publish`. Raises
        :class:`AdapterRefused`, FileNotFoundError and :class:`EngineClosedFault`.
        """
        place = self._place(folder or name, name)
        files = read_adapter(place, base=self._base, name=name)
        tensors = self._adapters.read(files)
        key = self._registry.new_key(name)

        def stack() -> tuple[LoadedAdapter, LoadedAdapter | None]:
            if self._registry.find(name) is None and len(self._registry.all()) >= MOST_ADAPTERS:
                raise AdapterRefused(name, f"{MOST_ADAPTERS} adapters are loaded already")
            self._adapters.add(key, tensors)
            before = self._registry.publish(files, key, by_default=by_default)
            after = self._registry.find(name)
            assert after is not None  # it has just been published, and changes are made on this thread alone
            return after, before

        return self._engine.call(stack).result()

    @property
    def stacked(self) -> tuple[str, ...]:
        """Keys of all versions in memory, those that only wait for their last sequence included."""
        return self._adapters.keys

    def unload(self, name: str) -> LoadedAdapter:
        """No request can name it any more. Raises :class:`UnknownAdapterFault` and :class:`EngineClosedFault`."""
        return self._engine.call(lambda: self._registry.withdraw(name)).result()

    def _place(self, folder: str, name: str) -> Path:
        """The folder below the store, and nothing outside of it, whatever ``folder`` says."""
        if folder in (".", "..") or Path(folder).name != folder or "\0" in folder:
            raise AdapterRefused(name, f"{folder!r} is not the name of a folder")
        place = self._store / folder
        if place.resolve().parent != self._store.resolve() or not place.is_dir():
            raise FileNotFoundError(folder)
        return place

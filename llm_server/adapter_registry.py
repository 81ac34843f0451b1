"""Which adapters there are, by name; and which are only still there because a sequence uses them.

A name always means the version loaded last. Each version has a key of its own, under which the runner knows it: a
sequence keeps the key it was given when it was submitted, so that an adapter can be replaced or taken away while
answers are being written with it. No torch. Readers need no lock; a change is one assignment.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from llm_server.adapter_files import AdapterFiles
from llm_server.faults import UnknownAdapterFault
from llm_server.sequence import AdapterScales


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter that may be asked for. ``by_default``: used by requests that name no adapters."""

    files: AdapterFiles
    key: str
    by_default: bool


class AdapterRegistry:
    """Names to versions. See the module for what that means."""

    def __init__(self) -> None:
        self._loaded: dict[str, LoadedAdapter] = {}
        self._retired: set[str] = set()
        self._versions = itertools.count()
        self._changing = threading.Lock()

    def new_key(self, name: str) -> str:
        """A key that no version had before."""
        return f"{name}#{next(self._versions)}"

    def publish(
        self, files: AdapterFiles, key: str, *, by_default: bool | None = None
    ) -> LoadedAdapter | None:
        """From now on the adapter's name means ``key``; returns the version it meant before, which retires.

        ``by_default`` None: as the version before; no if there was none.
        """
        with self._changing:
            before = self._loaded.get(files.name)
            if by_default is None:
                by_default = before is not None and before.by_default
            self._loaded = self._loaded | {files.name: LoadedAdapter(files, key, by_default)}
            if before is not None:
                self._retired.add(before.key)
            return before

    def withdraw(self, name: str) -> LoadedAdapter:
        """The name means nothing any more. Raises :class:`UnknownAdapterFault`."""
        with self._changing:
            before = self._loaded.get(name)
            if before is None:
                raise UnknownAdapterFault(name)
            self._loaded = {other: one for other, one in self._loaded.items() if other != name}
            self._retired.add(before.key)
            return before

    def all(self) -> list[LoadedAdapter]:
        """What may be asked for, by name."""
        return [one for _, one in sorted(self._loaded.items())]

    def find(self, name: str) -> LoadedAdapter | None:
        """The version that ``name`` means now."""
        return self._loaded.get(name)

    @property
    def default_scales(self) -> AdapterScales:
        """What a request gets that names no adapters."""
        return tuple((one.files.name, one.files.default_scale) for one in self.all() if one.by_default)

    def resolve(self, scales: AdapterScales) -> AdapterScales:
        """``scales`` by key in place of name. Raises :class:`UnknownAdapterFault`."""
        loaded = self._loaded
        keyed: list[tuple[str, float]] = []
        for name, scale in scales:
            if name not in loaded:
                raise UnknownAdapterFault(name)
            keyed.append((loaded[name].key, scale))
        return tuple(keyed)

    def collect(self, in_use: Iterable[AdapterScales]) -> AbstractSet[str]:
        """Keys that nobody can ask for and nobody uses: returned once, to be dropped."""
        if not self._retired:
            return frozenset()
        used = {key for scales in in_use for key, _ in scales}
        with self._changing:
            gone = self._retired - used
            self._retired -= gone
        return gone


def registry_of(adapters: Sequence[AdapterFiles]) -> AdapterRegistry:
    """A registry in which all of ``adapters`` are loaded under their names as keys, and used by default."""
    registry = AdapterRegistry()
    for adapter in adapters:
        registry.publish(adapter, registry.new_key(adapter.name), by_default=True)
    return registry

"""The records of a run, one JSON object a line, appended as answers arrive, so that nothing answered is ever lost."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Self

from llm_server.evaluation.harness.example import Record

Key = tuple[str, str]
"""(condition, example id)."""


class RecordFile:
    """An append-only file of records; the last line of a key counts.

    A line that cannot be read (the process was killed while it wrote) is passed over and counted.

    Args:
        path: made with its folder if absent.

    Attributes:
        records: by key.
        unreadable: lines passed over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[Key, Record] = {}
        self.unreadable = 0
        self._file: IO[str] | None = None
        if path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    record = Record.from_json(line)
                except ValueError:
                    self.unreadable += 1
                else:
                    self.records[record.condition, record.id] = record

    def __enter__(self) -> Self:
        """Open for appending."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n") and self.path.stat().st_size
        self._file = self.path.open("a", encoding="utf-8")
        if torn:
            self._file.write("\n")
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def append(self, record: Record) -> None:
        """Keep a record, on disk before this returns.

        Raises:
            ValueError: the file is not open.
        """
        if self._file is None:
            raise ValueError("a record file takes records only while it is open")
        self._file.write(record.to_json() + "\n")
        self._file.flush()
        self.records[record.condition, record.id] = record

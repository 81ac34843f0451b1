"""A contender of `bench.llm` in a process of its own: a fork, so that libraries and weights are loaded once for all.

Forking is safe here because nothing in the parent has computed on more than one thread by then: `bench.llm` sees to it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import IO, Any

Answer = dict[str, Any]
#: Made in the child, once: what answers each question put to it.
Start = Callable[[], Callable[[Answer], Answer]]

_LOOK_S = 0.2
_END_S = 10.0


class ContenderProcess:
    """Asked one thing at a time. Once it has failed, ``error`` says why, and it answers nothing more."""

    def __init__(self, start: Start) -> None:
        """Fork, and begin with ``start`` there."""
        self.error = ""
        fork = multiprocessing.get_context("fork")
        self._connection, theirs = fork.Pipe()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process, see close
        self._process = fork.Process(target=_serve, args=(start, theirs, self._log, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, what: Answer) -> Answer | None:
        """Its answer, or None if it has failed."""
        if self.error:
            return None
        try:
            with contextlib.suppress(BrokenPipeError):  # it may have said why before it ended
                self._connection.send(what)
            while not self._connection.poll(_LOOK_S):
                if not self._process.is_alive() and not self._connection.poll():
                    raise EOFError
            answer: Answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            self._log.seek(0)
            lines = self._log.read().strip().splitlines() or ["it said nothing"]
            self.error = f"ended with {self._process.exitcode}: {lines[-1][:300]}"
            return None
        if "error" in answer:
            self.error = str(answer["error"])[:300]
            return None
        return answer

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.join(_END_S)
        self._connection.close()
        self._log.close()


def _serve(start: Start, connection: Connection, log: IO[str], parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its children itself
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    try:
        answer = start()
        while True:
            while not connection.poll(1.0):
                if os.getppid() != parent:
                    return
            connection.send(answer(connection.recv()))
    except Exception as error:
        connection.send({"error": f"{type(error).__name__}: {error}"})

"""llama.cpp as a contender of `bench.llm`, where llama-cpp-python is installed (it is none of this project's packages).

It has the base's GGUF file as it ships (blocks of four bits) and no adapters, whose files it cannot read: less work
than the others do, and other answers. What it says is reported, and no ratio's bar rests on it.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.llm_workload import Answerer, Ask, Heard

NAME: Final = "llama.cpp"
_MODULE: Final = "llama_cpp"
_CONTEXT: Final = 2048


def absent() -> str:
    """Why it cannot be measured; empty if it can."""
    return "" if importlib.util.find_spec(_MODULE) else f"there is no module {_MODULE}"


def start(gguf: Path, *, threads: int) -> tuple[Answerer, Callable[[], None]]:
    """What answers, one caller after another, greedily; and what ends it."""
    library: Any = importlib.import_module(_MODULE)
    model = library.Llama(
        model_path=str(gguf), n_ctx=_CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    lock = threading.Lock()

    def answer(ask: Ask) -> Heard:
        heard, asked = Heard(), time.perf_counter()
        with lock:
            for token in model.generate(list(ask.prompt), temp=0.0):
                heard.tokens.append(int(token))
                heard.at.append(time.perf_counter() - asked)
                if len(heard.tokens) == ask.answer:
                    return heard
        raise RuntimeError(f"it ended after {len(heard.tokens)} of {ask.answer} tokens")

    return answer, model.close
